"""The API over HTTPS."""

from __future__ import annotations

import collections
import json
import socket
import ssl
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

from . import discovery, events, protobuf, selectors, tables
from .model import ApiError, Catalog, Obj, Resource, bad_request
from .operations import PATCHES, Call, Operations
from .rbac import Ask, Authorizer, Tokens, User
from .store import Store

MAX_BODY = 3 * 1024 * 1024
BOOKMARK_EVERY = 5.0


class Node(Protocol):
    """What the API asks kubelet for."""

    def logs(self, namespace: str, pod: str, container: str, previous: bool) -> tuple[Path, Callable[[], bool]]:
        """The file, and whether more may come."""

    def dial(self, namespace: str, pod: str, port: int) -> socket.socket:
        """A connection to 127.0.0.1:port in the Pod."""


@dataclass(frozen=True)
class Asked:
    """A line of the audit log."""

    at: float
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


class Api:
    """What the handlers of all connections share."""

    def __init__(self, store: Store, tokens: Tokens, version: str) -> None:
        self.store, self.tokens, self.version = store, tokens, version
        self.operations = Operations(store, tokens)
        self.authorizer = Authorizer(store)
        self.node: Node | None = None
        self.audit: collections.deque[Asked] = collections.deque(maxlen=50_000)
        self.stopping = threading.Event()

    @property
    def catalog(self) -> Catalog:
        return self.store.catalog


def version_info(version: str) -> Obj:
    major, minor = version.lstrip("v").split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": version,
        "gitCommit": "stand-in",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "none",
        "platform": "linux/amd64",
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api
    user: User

    # ---- plumbing

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the audit log has it."""

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ssl.SSLError):
            pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.asked = Ask(self.command.lower(), path=url.path)
        self.code = 0
        try:
            size = int(self.headers.get("Content-Length") or 0)
            if size > MAX_BODY:
                self.close_connection = True
                raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}")
            body = self.rfile.read(size) if size else b""
            self.user = self.api.tokens.user(self.headers.get("Authorization", ""))
            self._route(url.path, query, body)
        except ApiError as e:
            self.send_json(e.status(), e.code)
        except (BrokenPipeError, ConnectionError, ssl.SSLError):
            self.close_connection = True
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            if not self.code:
                self.send_json(ApiError(500, "InternalError", f"{type(e).__name__}: {e}").status(), 500)
            self.close_connection = True
        if self.asked.verb != "watch" or self.code != 200:
            self._note()

    def _note(self) -> None:
        """A line in the audit log. Of a watch when it begins: it may go on for an hour."""
        ask = self.asked
        user = self.user.name if hasattr(self, "user") else ""
        what = f"{ask.resource}.{ask.group}" if ask.group else ask.resource
        self.api.audit.append(
            Asked(
                time.time(),
                user,
                ask.verb,
                ask.path or what + (f"/{ask.subresource}" if ask.subresource else ""),
                ask.namespace,
                ask.name,
                self.code,
            )
        )

    def send_body(self, body: bytes, content_type: str, code: int = 200) -> None:
        self.code = code
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, obj: Obj, code: int = 200, content_type: str = "application/json") -> None:
        self.send_body(json.dumps(obj, separators=(",", ":")).encode(), content_type, code)

    def stream(self, content_type: str, pieces: Iterator[bytes]) -> None:
        self.code = 200
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    # ---- routes

    def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
        parts = [urllib.parse.unquote(p) for p in path.split("/") if p]
        if parts[:1] == ["api"] and len(parts) > 2:
            return self._objects("", parts[1], parts[2:], query, body)
        if parts[:1] == ["apis"] and len(parts) > 3:
            return self._objects(parts[1], parts[2], parts[3:], query, body)
        self.api.authorizer.check(self.user, self.asked)
        found = self._about(path, parts)
        if found is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return None

    def _about(self, path: str, parts: list[str]) -> bool | None:
        """Discovery, OpenAPI and the like."""
        catalog, accept = self.api.catalog, self.headers.get("Accept", "")
        if path in ("/healthz", "/livez", "/readyz"):
            self.send_body(b"ok", "text/plain")
        elif path == "/version":
            self.send_json(version_info(self.api.version))
        elif parts in (["api"], ["apis"]):
            if "apidiscovery.k8s.io;v=v2;" in accept or accept.endswith("apidiscovery.k8s.io;v=v2"):
                self.send_json(discovery.aggregated(catalog, parts == ["api"]), 200, discovery.AGGREGATED)
            else:
                self.send_json(discovery.versions() if parts == ["api"] else discovery.groups(catalog))
        elif parts[:1] == ["api"] or parts[:1] == ["apis"] and len(parts) == 3:
            found = discovery.resources(catalog, parts[1] if parts[0] == "apis" else "", parts[-1])
            if found is None:
                return None
            self.send_json(found)
        elif parts[:1] == ["apis"] and len(parts) == 2 and parts[1] in catalog.groups():
            self.send_json({"kind": "APIGroup", "apiVersion": "v1", **discovery.group(parts[1], catalog.groups()[parts[1]])})
        elif path == "/openapi/v3":
            self.send_json(discovery.openapi_index(catalog))
        elif path.startswith("/openapi/v3/"):
            document = discovery.openapi(catalog, path.removeprefix("/openapi/v3/"))
            if document is None:
                return None
            self.send_json(document)
        elif path == "/openapi/v2":
            # An empty document in protobuf: clients then leave validation to the server.
            self.send_body(b"", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        else:
            return None
        return True

    def _objects(self, group: str, version: str, rest: list[str], query: dict[str, str], body: bytes) -> None:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and rest[2] in ("status", "finalize")):
            namespace, rest = rest[1], rest[2:]
        plural, name, sub = rest[0], rest[1] if len(rest) > 1 else "", "/".join(rest[2:])
        if group in ("authorization.k8s.io", "authentication.k8s.io"):
            self.asked = Ask("create", group, plural)
            self.api.authorizer.check(self.user, self.asked)
            return self._review(plural, self._document(body))
        watching = query.get("watch", "") in ("1", "true")
        by_method = {
            "GET": "get" if name else "list",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete" if name else "deletecollection",
        }
        verb = "watch" if watching else by_method[self.command]
        of_namespace = name if (group, plural) == ("", "namespaces") else namespace
        self.asked = Ask(verb, group, plural, sub, of_namespace, name)
        # Before it is known whether there is such a kind: who may not ask does not learn that.
        self.api.authorizer.check(self.user, self.asked)
        resource = self.api.catalog.find(group, version, plural)
        if resource is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if resource.namespaced and not namespace and (name or self.command == "POST"):
            raise bad_request("a namespace is needed")
        call = Call(resource, namespace, name, sub, query, self.headers.get("User-Agent", ""))
        if watching:
            if name:
                query["fieldSelector"] = f"metadata.name={name}"
            return self._watch(call)
        if sub == "log":
            return self._log(call)
        if sub == "portforward":
            from .portforward import serve

            assert self.api.node
            return serve(self, self.api.node, namespace, name)
        return self._verb(call, verb, body)

    def _verb(self, call: Call, verb: str, body: bytes) -> None:
        operations = self.api.operations
        if verb == "list":
            return self._list(call)
        if verb == "get":
            return self._show(call, operations.read(call))
        if verb == "create":
            return self._show(call, operations.create(call, self._document(body)), 201)
        if verb == "update":
            return self._show(call, operations.update(call, self._document(body)))
        if verb == "patch":
            kind = PATCHES.get(self.headers.get("Content-Type", "").split(";")[0])
            if kind is None:
                raise ApiError(415, "UnsupportedMediaType", f"unknown kind of patch: {self.headers.get('Content-Type')}")
            obj, made = operations.patch(call, kind, body)
            return self._show(call, obj, 201 if made else 200)
        options = self._document(body) if body else {}
        if verb == "deletecollection":
            match = selectors.both(call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
            gone = operations.delete_all(call, options, match)
            return self.send_json(self._collection(call.resource, gone, self.api.store.version))
        obj, gone_now = operations.delete(call, options)
        if gone_now:
            return self.send_json(
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Success",
                    "details": {
                        "name": call.name,
                        "group": call.resource.group,
                        "kind": call.resource.plural,
                        "uid": obj["metadata"]["uid"],
                    },
                }
            )
        return self._show(call, obj)

    def _document(self, body: bytes) -> Obj:
        content_type = self.headers.get("Content-Type", "application/json").split(";")[0]
        try:
            if content_type == protobuf.CONTENT_TYPE:
                return protobuf.decode(body)
            if content_type in ("application/json", "application/yaml"):
                import yaml

                document = json.loads(body) if content_type.endswith("json") else yaml.safe_load(body)
                if isinstance(document, dict):
                    return document
                raise bad_request("the body is not an object")
        except (ValueError, IndexError, KeyError) as e:
            raise bad_request(f"the body cannot be read: {e}") from None
        raise ApiError(415, "UnsupportedMediaType", f"unknown media type: {content_type}")

    # ---- reading

    def _wants(self) -> str:
        accept = self.headers.get("Accept", "")
        return next((k for k in ("PartialObjectMetadata", "Table") if f"as={k}" in accept), "")

    def _show(self, call: Call, obj: Obj, code: int = 200) -> None:
        obj = events.present(call.resource, obj)
        wants = self._wants()
        if wants == "Table" and self.command == "GET":
            return self.send_json(tables.table(call.resource, [obj], obj["metadata"]["resourceVersion"]))
        if wants == "PartialObjectMetadata":
            obj = {"kind": wants, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        return self.send_json(obj, code)

    def _collection(self, resource: Resource, objects: list[Obj], version: int) -> Obj:
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": {"resourceVersion": str(version)},
            "items": objects,
        }

    def _list(self, call: Call) -> None:
        match = selectors.both(call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
        found, version = self.api.store.snapshot(call.resource, call.namespace)
        objects = [o for o in (events.present(call.resource, x) for x in found) if match(o)]
        wants = self._wants()
        if wants == "Table":
            return self.send_json(tables.table(call.resource, objects, str(version)))
        if wants:
            return self.send_json(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": str(version)},
                    "items": [
                        {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]} for o in objects
                    ],
                }
            )
        return self.send_json(self._collection(call.resource, objects, version))

    def _watch(self, call: Call) -> None:
        self.code = 200
        self._note()
        self.stream("application/json", self._events(call))

    def _events(self, call: Call) -> Iterator[bytes]:
        store, resource, query = self.api.store, call.resource, call.query
        match = selectors.both(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        end = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        initial = query.get("sendInitialEvents") == "true"
        asked_version = query.get("resourceVersion", "")
        wants, first = self._wants(), True

        def frame(kind: str, obj: Obj) -> bytes:
            nonlocal first
            if wants == "Table" and kind != "BOOKMARK":
                obj, first = tables.table(resource, [obj], obj["metadata"]["resourceVersion"], first), False
            elif wants == "PartialObjectMetadata":
                obj = {"kind": wants, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
            return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"

        def bookmark(version: int, done: bool) -> bytes:
            meta: Obj = {"resourceVersion": str(version)}
            if done:
                meta["annotations"] = {"k8s.io/initial-events-end": "true"}
            return frame("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta})

        if initial or asked_version in ("", "0"):
            found, version = store.snapshot(resource, call.namespace)
            for obj in (events.present(resource, o) for o in found):
                if match(obj):
                    yield frame("ADDED", obj)
            if initial:
                yield bookmark(version, True)
        else:
            version = int(asked_version)
        try:
            for change in store.follow(
                version, {resource.key}, lambda: self.api.stopping.is_set() or time.monotonic() > end, BOOKMARK_EVERY
            ):
                if isinstance(change, int):
                    if query.get("allowWatchBookmarks") == "true":
                        yield bookmark(change, False)
                    continue
                if call.namespace and change.obj["metadata"].get("namespace") != call.namespace:
                    continue
                obj = events.present(resource, change.obj)
                fits = match(obj)
                fitted = change.old is not None and match(events.present(resource, change.old))
                if change.kind == "DELETED":
                    if fitted:
                        yield frame("DELETED", obj)
                elif fits:
                    yield frame("MODIFIED" if fitted else "ADDED", obj)
                elif fitted:
                    yield frame("DELETED", obj)
        except ApiError as e:
            yield json.dumps({"type": "ERROR", "object": e.status()}).encode() + b"\n"

    def _log(self, call: Call) -> None:
        if self.api.node is None:
            raise ApiError(500, "InternalError", "no kubelet")
        pod = self.api.store.get(call.resource, call.namespace, call.name)
        container = call.query.get("container", "")
        names = [c["name"] for c in pod["spec"]["containers"]]
        if not container:
            if len(names) > 1:
                raise bad_request(f"a container name must be specified for pod {call.name}, choose one of: {names}")
            container = names[0]
        path, open_ = self.api.node.logs(call.namespace, call.name, container, call.query.get("previous") == "true")
        follow, tail = call.query.get("follow") == "true", call.query.get("tailLines")

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as log:
                if tail is not None:
                    yield b"".join(log.readlines()[-int(tail) :] if int(tail) else log.readlines()[:0])
                while True:
                    more = open_() if follow else False
                    piece = log.read(65536)
                    if piece:
                        yield piece
                    elif not more:
                        return
                    else:
                        time.sleep(0.1)

        self.stream("text/plain", pieces())

    def _review(self, plural: str, obj: Obj) -> None:
        spec = obj.get("spec") or {}
        if plural == "selfsubjectrulesreviews":
            rules = self.api.authorizer.rules(self.user, spec.get("namespace", ""))
            status: Obj = {
                "resourceRules": [x for x in rules if "resources" in x],
                "nonResourceRules": [x for x in rules if "nonResourceURLs" in x],
                "incomplete": False,
            }
        elif plural == "selfsubjectreviews":
            status = {"userInfo": {"username": self.user.name, "groups": list(self.user.groups)}}
        elif plural == "tokenreviews":
            try:
                who = self.api.tokens.user(spec.get("token", ""))
                status = {"authenticated": True, "user": {"username": who.name, "groups": list(who.groups)}}
            except ApiError:
                status = {"authenticated": False}
        else:
            who = self.user if plural.startswith("self") else User(spec.get("user", ""), tuple(spec.get("groups") or ()))
            a, path = spec.get("resourceAttributes") or {}, (spec.get("nonResourceAttributes") or {})
            ask = Ask(
                path.get("verb") or a.get("verb", ""),
                a.get("group", ""),
                a.get("resource", ""),
                a.get("subresource", ""),
                a.get("namespace", ""),
                a.get("name", ""),
                path.get("path", ""),
            )
            status = {"allowed": self.api.authorizer.allows(who, ask)}
        self.send_json({**obj, "status": status}, 201)


class Server:
    """One thread for each connection, on listeners that somebody else opened."""

    def __init__(self, api: Api, listeners: list[socket.socket], cert: Path, key: Path) -> None:
        self.api, self.listeners = api, listeners
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.handler = type("BoundHandler", (Handler,), {"api": api})

    def start(self) -> None:
        for listener in self.listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True, name="api-accept").start()

    def _accept(self, listener: socket.socket) -> None:
        while not self.api.stopping.is_set():
            try:
                connection, address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(connection, address), daemon=True, name="api-connection").start()

    def _connection(self, connection: socket.socket, address: Any) -> None:
        try:
            connection.settimeout(10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.context.wrap_socket(connection, server_side=True) as tls:
                tls.settimeout(None)
                self.handler(tls, address, None)
        except (OSError, ssl.SSLError):
            connection.close()
