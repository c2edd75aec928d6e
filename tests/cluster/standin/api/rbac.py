"""Who asks, and whether they may: tokens of ServiceAccounts, roles and their bindings."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass

from .model import ApiError, Obj, forbidden
from .store import Store

RBAC = "rbac.authorization.k8s.io"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        return "system:masters" in self.groups


ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens:
    """The administrator's token, and signed ones for ServiceAccounts that end by themselves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.admin = secrets.token_urlsafe(32)
        self._key = secrets.token_bytes(32)

    def issue(self, namespace: str, account: str, seconds: int = 3600, pod: Obj | None = None) -> str:
        uid = self.store.get(self.store.catalog.of("serviceaccounts"), namespace, account)["metadata"]["uid"]
        start = int(time.time())
        claims: Obj = {
            "iss": ISSUER,
            "aud": [ISSUER],
            "iat": start,
            "exp": start + seconds,
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        }
        if pod:
            claims["kubernetes.io"]["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        text = _b64(b'{"alg":"HS256","typ":"JWT"}') + "." + _b64(json.dumps(claims).encode())
        return f"{text}.{self._sign(text)}"

    def _sign(self, text: str) -> str:
        return _b64(hmac.new(self._key, text.encode(), hashlib.sha256).digest())

    def user(self, header: str) -> User:
        if not header:
            return ANONYMOUS
        token = header.removeprefix("Bearer ").strip()
        if hmac.compare_digest(token.encode(), self.admin.encode()):
            return ADMIN
        text, _, signature = token.rpartition(".")
        if not text or not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            raise ApiError(401, "Unauthorized", "Unauthorized")
        payload = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        bound = claims["kubernetes.io"]
        account = self.store.find(self.store.catalog.of("serviceaccounts"), bound["namespace"], bound["serviceaccount"]["name"])
        if claims["exp"] < time.time() or account is None or account["metadata"]["uid"] != bound["serviceaccount"]["uid"]:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if "pod" in bound:
            pod = self.store.find(self.store.catalog.of("pods"), bound["namespace"], bound["pod"]["name"])
            if pod is None or pod["metadata"]["uid"] != bound["pod"]["uid"]:
                raise ApiError(401, "Unauthorized", "Unauthorized")
        return User(claims["sub"], ("system:serviceaccounts", f"system:serviceaccounts:{bound['namespace']}", "system:authenticated"))


@dataclass(frozen=True)
class Ask:
    """What is asked for: an object or kind, or with `path` something else."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


def _has(allowed: list[str] | None, value: str) -> bool:
    return allowed is not None and ("*" in allowed or value in allowed)


def _rule_fits(rule: Obj, ask: Ask) -> bool:
    if not _has(rule.get("verbs"), ask.verb):
        return False
    if ask.path:
        urls = rule.get("nonResourceURLs") or []
        return any(u == ask.path or u.endswith("*") and ask.path.startswith(u[:-1]) for u in urls)
    if not _has(rule.get("apiGroups"), ask.group):
        return False
    asked = f"{ask.resource}/{ask.subresource}" if ask.subresource else ask.resource
    allowed = rule.get("resources") or []
    if not (_has(allowed, asked) or ask.subresource and f"*/{ask.subresource}" in allowed):
        return False
    names = rule.get("resourceNames")
    return not names or ask.name in names


class Authorizer:
    def __init__(self, store: Store) -> None:
        self.store = store

    def _bound(self, binding: Obj, user: User) -> bool:
        for s in binding.get("subjects") or []:
            namespace = s.get("namespace") or binding["metadata"].get("namespace", "")
            if (
                s["kind"] == "ServiceAccount"
                and user.name == f"system:serviceaccount:{namespace}:{s['name']}"
                or s["kind"] == "User"
                and user.name == s["name"]
                or s["kind"] == "Group"
                and s["name"] in user.groups
            ):
                return True
        return False

    def rules(self, user: User, namespace: str) -> list[Obj]:
        catalog = self.store.catalog
        out: list[Obj] = []
        bindings = self.store.list(catalog.of("clusterrolebindings", RBAC))
        if namespace:
            bindings = bindings + self.store.list(catalog.of("rolebindings", RBAC), namespace)
        for binding in bindings:
            if not self._bound(binding, user):
                continue
            ref = binding["roleRef"]
            plural = "clusterroles" if ref["kind"] == "ClusterRole" else "roles"
            role = self.store.find(catalog.of(plural, RBAC), namespace if plural == "roles" else "", ref["name"])
            out += (role or {}).get("rules") or []
        return out

    def allows(self, user: User, ask: Ask) -> bool:
        if user.is_admin:
            return True
        if ask.path and (
            ask.path in ("/version", "/healthz", "/livez", "/readyz", "/api", "/apis")
            or ask.path.startswith(("/api/", "/apis/", "/openapi"))
        ):
            return True
        if ask.group == "authorization.k8s.io" and ask.resource.startswith("selfsubject"):
            return True
        return any(_rule_fits(rule, ask) for rule in self.rules(user, ask.namespace))

    def check(self, user: User, ask: Ask) -> None:
        if self.allows(user, ask):
            return
        if ask.path:
            raise forbidden(f'forbidden: User "{user.name}" cannot {ask.verb} path "{ask.path}"')
        what = f"{ask.resource}/{ask.subresource}" if ask.subresource else ask.resource
        where = f'in the namespace "{ask.namespace}"' if ask.namespace else "at the cluster scope"
        qualified = f"{ask.resource}.{ask.group}" if ask.group else ask.resource
        name = f' "{ask.name}"' if ask.name else ""
        raise forbidden(
            f'{qualified}{name} is forbidden: User "{user.name}" cannot {ask.verb} resource "{what}" in API group "{ask.group}" {where}'
        )
