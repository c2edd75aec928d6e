"""Real parts that programs need, in the cluster's network: a registry, an origin, Redis. All on the node's address."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from standin.api import pki
from standin.node.network import NODE_ADDRESS

REGISTRY = "registry.test:5000"
USER, PASSWORD = "puller", "opens-the-door"


class Registry:
    """Debian's docker-registry over TLS, with a password."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.address = (NODE_ADDRESS, 5000)
        self.ca, cert, key = pki.make(folder / "pki", ["registry.test", "localhost"], [NODE_ADDRESS, "127.0.0.1"])
        hashed = subprocess.run(
            ["perl", "-e", "print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))", PASSWORD], capture_output=True, text=True, check=True
        ).stdout
        (folder / "users").write_text(f"{USER}:{hashed}\n")
        (folder / "config.yml").write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                    "http": {"addr": f"{NODE_ADDRESS}:5000", "tls": {"certificate": str(cert), "key": str(key)}},
                    "auth": {"htpasswd": {"realm": "registry", "path": str(folder / "users")}},
                }
            )
        )
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=self.log, stderr=self.log)
        self._context = ssl.create_default_context(cafile=str(self.ca))
        end = time.monotonic() + 10
        while True:
            try:
                self._ask("GET", "/v2/")
                return
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError(f"docker-registry does not answer: {(folder / 'log').read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @property
    def docker_config(self) -> str:
        """What a pull secret holds."""
        return json.dumps({"auths": {REGISTRY: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}})

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/octet-stream") -> urllib.response.addinfourl:
        url = path if path.startswith("http") else f"https://{NODE_ADDRESS}:5000{path}"
        request = urllib.request.Request(
            url,
            body,
            {"Content-Type": kind, "Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()},
            method=method,
        )
        return urllib.request.urlopen(request, context=self._context, timeout=10)  # type: ignore[no-any-return]

    def _blob(self, repository: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"").headers["Location"]
        # The registry names itself as it was asked for.
        self._ask("PUT", place + ("&" if "?" in place else "?") + "digest=" + urllib.parse.quote(digest), data)
        return digest

    def push(self, repository: str, tag: str, module: bytes) -> str:
        """An artifact as the CNCF lays it out; its digest."""
        layer = self._blob(repository, module)
        config = json.dumps({"architecture": "wasm", "os": "wasip1", "layerDigests": [layer]}).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.wasm.config.v0+json",
                    "digest": self._blob(repository, config),
                    "size": len(config),
                },
                "layers": [{"mediaType": "application/wasm", "digest": layer, "size": len(module)}],
            }
        ).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, "application/vnd.oci.image.manifest.v1+json")
        return "sha256:" + hashlib.sha256(manifest).hexdigest()


class Origin:
    """A backend for programs: /slow?ms=N waits that long; the answer says what was asked."""

    def __init__(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                time.sleep(int(dict(urllib.parse.parse_qsl(url.query)).get("ms", "0")) / 1000)
                body = f"origin {self.path}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer((NODE_ADDRESS, 0), Handler)
        self.url = f"http://{NODE_ADDRESS}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True, name="origin").start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Files:
    """A folder over HTTPS."""

    def __init__(self, pki_folder: Path, folder: Path) -> None:
        self.ca, cert, key = pki.make(pki_folder, [], [NODE_ADDRESS])

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer((NODE_ADDRESS, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://{NODE_ADDRESS}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True, name="files").start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Redis:
    def __init__(self, folder: Path, password: str) -> None:
        folder.mkdir(parents=True)
        self.port, self.password = 6399, password
        config = f'bind {NODE_ADDRESS}\nport {self.port}\nrequirepass {password}\nsave ""\ndir {folder}\ndaemonize no\n'
        self.process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self.process.stdin
        self.process.stdin.write(config)
        self.process.stdin.close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
