"""The container image: what is in it, that it is the same each time, that it runs as a cluster would run it, and that a registry takes it."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import os
import re
import signal
import ssl
import stat
import tarfile
import threading
import unittest
from pathlib import Path
from typing import Any

import kit
import names
import scenario

IMAGE = kit.DEPLOY / "image"
EPOCH = "1767225600"

# All that there is beside libraries, licences and folders.
FILES = {
    "./etc/group",
    "./etc/nsswitch.conf",
    "./etc/passwd",
    "./etc/ssl/certs/ca-certificates.crt",
    "./usr/bin/sidelight",
    "./usr/share/doc/sidelight/LICENSE",
    "./usr/share/doc/sidelight/crates.txt",
    "./usr/share/sbom/sidelight.cdx.json",
}
LIBRARY = re.compile(r"\./(lib|lib64|usr/lib)/.*\.so(\.\d+)*")
COPYRIGHT = re.compile(r"\./usr/share/doc/[^/]+/copyright")


def build(output: Path, *more: str | Path, **environment: str) -> dict[str, str]:
    """Runs build.sh; what it says, by its first word."""
    command = [IMAGE / "build.sh", "--binary", kit.binary(), "--output", output, *more]
    said = kit.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **environment}).stdout
    return dict(line.split(" ", 1) for line in said.splitlines())


class Image(kit.Case):
    """One image, built once for all of these."""

    layout: Path
    said: dict[str, str]
    manifest: dict[str, Any]
    config: dict[str, Any]
    layer: bytes
    root: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.layout = cls.folder / "image"
        cls.said = build(cls.layout)
        cls.manifest = json.loads(cls.blob(cls.said["digest"]))
        cls.config = json.loads(cls.blob(cls.manifest["config"]["digest"]))
        cls.layer = gzip.decompress(cls.blob(cls.manifest["layers"][0]["digest"]))
        cls.root = cls.folder / "root"
        cls.root.mkdir()
        with tarfile.open(fileobj=io.BytesIO(cls.layer)) as tar:
            tar.extractall(cls.root, numeric_owner=True, filter="fully_trusted")

    @classmethod
    def blob(cls, digest: str) -> bytes:
        return (cls.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()

    def members(self) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as tar:
            return tar.getmembers()

    def test_it_is_the_same_each_time(self) -> None:
        again = build(self.folder / "again", TMPDIR=str(self.folder), TZ="Asia/Tokyo", LC_ALL="C")
        self.assertEqual(again["digest"], self.said["digest"])
        # Another time is another image: the comparison above means something.
        later = build(self.folder / "later", SOURCE_DATE_EPOCH=str(int(EPOCH) + 1))
        self.assertNotEqual(later["digest"], self.said["digest"])

    def test_what_it_says_of_itself(self) -> None:
        version = kit.run([kit.binary(), "--version"]).stdout.split()[1]
        config = self.config["config"]
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(config["Entrypoint"], ["/usr/bin/sidelight"])
        self.assertEqual(config["Cmd"], ["serve"])
        self.assertEqual(config["WorkingDir"], "/etc/sidelight")
        self.assertEqual(set(config["ExposedPorts"]), {"8080/tcp", "8443/tcp", "9090/tcp", "9091/tcp"})
        labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
        self.assertEqual(
            {name: labels[name] for name in ("title", "version", "licenses", "created")},
            {"title": "sidelight", "version": version, "licenses": "Apache-2.0", "created": "2026-01-01T00:00:00Z"},
        )
        self.assertRegex(labels["revision"], "^[0-9a-f]{40}$")
        self.assertEqual(self.manifest["annotations"], config["Labels"])
        self.assertEqual((self.config["os"], self.config["created"]), ("linux", "2026-01-01T00:00:00Z"))
        # The Dockerfile says the same.
        text = (IMAGE / "Dockerfile").read_text()
        for instruction in (
            "USER 65532:65532",
            'ENTRYPOINT ["/usr/bin/sidelight"]',
            'CMD ["serve"]',
            "WORKDIR /etc/sidelight",
            f"EXPOSE {' '.join(sorted(port.split('/')[0] for port in config['ExposedPorts']))}",
            f"ENV {' '.join(config['Env'])}",
        ):
            self.assertIn(f"\n{instruction}\n", text)
        for label in config["Labels"]:
            self.assertIn(f"{label}=", text)

    def test_what_is_in_it(self) -> None:
        files = {member.name for member in self.members() if not member.isdir()}
        odd = {name for name in files - FILES if not LIBRARY.fullmatch(name) and not COPYRIGHT.fullmatch(name)}
        self.assertEqual((odd, FILES - files), (set(), set()))
        self.assertFalse([name for name in files if re.search(r"/(ba|da|z)?sh$|busybox", name)])
        for member in self.members():
            with self.subTest(member.name):
                self.assertTrue(member.isdir() or member.isreg(), "neither a file nor a folder")
                self.assertEqual(member.mode & (stat.S_ISUID | stat.S_ISGID), 0)
                self.assertEqual(member.mtime, int(EPOCH))
                if member.name != "./tmp":
                    self.assertEqual(member.mode & 0o022, 0, oct(member.mode))
                owned = member.name in ("./var/cache/sidelight", "./var/lib/sidelight")
                self.assertEqual((member.uid, member.gid), (65532, 65532) if owned else (0, 0))
                self.assertEqual((member.uname, member.gname), ("", ""))
        self.assertEqual(next(member.mode for member in self.members() if member.name == "./tmp"), 0o1777)

    def test_its_bill_of_materials(self) -> None:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
        from license_expression import get_spdx_licensing

        text = (self.root / "usr/share/sbom/sidelight.cdx.json").read_text()
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        self.assertIsNone(error)
        bill = json.loads(text)
        wrong = {**bill, "components": [{**bill["components"][0], "url": "a"}]}
        self.assertIsNotNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(wrong)))
        components = {component["purl"]: component for component in bill["components"]}
        self.assertEqual(len(components), len(bill["components"]))
        crates = [one for purl, one in components.items() if purl.startswith("pkg:cargo/")]
        names = {one["name"] for one in crates}
        # Linked; a test's; a macro; a build script's.
        self.assertLessEqual({"wasmtime", "pingora-core", "rustls", "tokio"}, names)
        self.assertFalse({"proptest", "tempfile", "rcgen", "serde_derive", "cmake", "cc"} & names)
        spdx = get_spdx_licensing()
        texts = (self.root / "usr/share/doc/sidelight/crates.txt").read_text()
        for one in crates:
            self.assertRegex(one["hashes"][0]["content"], "^[0-9a-f]{64}$", one["name"])
            expression = one["licenses"][0]["expression"]
            self.assertEqual(spdx.validate(expression).errors, [], one["name"])
            self.assertIn(f"{one['name']} {one['version']}", texts)
        libraries = {file["value"] for one in components.values() for file in one.get("properties", [])}
        there = {str(path)[len(str(self.root)):] for path in self.root.rglob("*.so*")}
        self.assertEqual(libraries, there | {"/etc/ssl/certs/ca-certificates.crt"})
        # Each is a dependency of something, and there is nothing else to depend on.
        refs = {one["bom-ref"] for one in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
        reached = {bill["metadata"]["component"]["bom-ref"]}
        on = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
        ahead = list(reached)
        while ahead:
            new = set(on[ahead.pop()]) - reached
            reached |= new
            ahead += new
        self.assertEqual(reached, refs)
        # The one in the image, and not the one that it was made from.
        digest = kit.run(["sha256sum", self.root / "usr/bin/sidelight"]).stdout.split()[0]
        self.assertEqual(bill["metadata"]["component"]["hashes"][0]["content"], digest)

    def test_sizes(self) -> None:
        compressed = int(self.said["compressed"].split()[0])
        self.assertEqual(compressed, sum(layer["size"] for layer in self.manifest["layers"]))
        self.assertEqual(int(self.said["uncompressed"].split()[0]), len(self.layer))
        # Names of functions are in it, line numbers are not.
        if kit.binary().parent.name == "release":
            self.assertLess(compressed, 32_000_000)



def seccomp() -> dict[str, Any]:
    """The profile that container runtimes have by default, as Debian brings it, for a process without capabilities."""
    there = json.loads(Path("/usr/share/containers/seccomp.json").read_text())
    calls = []
    for rule in there["syscalls"]:
        includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
        if includes.get("caps") or ("arches" in includes and "amd64" not in includes["arches"]) or "amd64" in excludes.get("arches", []):
            continue
        kept = {"names": rule["names"], "action": rule["action"], "args": rule.get("args") or []}
        if "errnoRet" in rule:
            kept["errnoRet"] = rule["errnoRet"]
        calls.append(kept)
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    return {"defaultAction": there["defaultAction"], "defaultErrnoRet": there.get("defaultErrnoRet", 1), "architectures": architectures, "syscalls": calls}


HOST = """\
listen = ["127.0.0.1:{http}"]
admin = "127.0.0.1:{admin}"
probes = "127.0.0.1:{probes}"
data_dir = "/var/lib/sidelight"
# A folder below the mounted one: programs are kept in a folder of one's own only, and what is mounted is root's.
cache_dir = "/var/cache/sidelight/programs"

[services.hosts]
hosts = ["hosts.test"]
module = "behaviours.wasm"
backends.origin.url = "http://origin.hosts.test:{origin}"

[services.dns]
hosts = ["dns.test"]
module = "behaviours.wasm"
backends.origin.url = "http://origin.dns.test:{origin}"

[services.nowhere]
hosts = ["nowhere.test"]
module = "behaviours.wasm"
backends.origin.url = "http://nowhere.test:{origin}"

[services.trusted]
hosts = ["trusted.test"]
module = "behaviours.wasm"
backends.origin.url = "https://localhost.dns.test:{trusted}"
backends.origin.cert_host = "localhost"

[services.untrusted]
hosts = ["untrusted.test"]
module = "behaviours.wasm"
backends.origin.url = "https://localhost.dns.test:{untrusted}"
backends.origin.cert_host = "localhost"

[services.stores]
hosts = ["stores.test"]
module = "stores.wasm"
kv_stores.fruit = [{{ key = "apple", data = "red" }}]
"""


class Running(kit.Case):
    """The image within a container runtime, as a cluster has it under Pod Security's `restricted`: user 65532, no capabilities, no new
    privileges, the runtime's seccomp profile, a root that cannot be written, and folders in memory for what may be."""

    bundle: Path
    layout: Path
    tag: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.layout, cls.bundle = cls.folder / "image", cls.folder / "bundle"
        said = build(cls.layout)
        cls.tag = said["image"].rsplit(":", 1)[1]
        kit.run([kit.tool("umoci"), "unpack", "--image", f"{cls.layout}:{cls.tag}", cls.bundle])
        # An address of its own, so that nothing else on the machine answers there.
        server = names.Server("127.0.53.1", {"origin.dns.test": "127.0.0.1", "localhost.dns.test": "127.0.0.1"})
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        for name in ("trusted", "untrusted"):
            scenario.certificate(cls.folder, name)
        cls.ports = {name: kit.free_port() for name in ("http", "admin", "probes")}
        cls.ports["origin"] = scenario.serve(cls, scenario.Origin)
        for name in ("trusted", "untrusted"):
            cls.ports[name] = cls.https(name)
        cls.write("etc/sidelight.toml", HOST.format(**cls.ports))
        for name in ("behaviours", "stores"):
            (cls.folder / "etc" / f"{name}.wasm").write_bytes(kit.guest(name).read_bytes())
        cls.write("hosts", "127.0.0.1 localhost origin.hosts.test\n")
        cls.write("resolv.conf", "nameserver 127.0.53.1\noptions timeout:1 attempts:2\n")
        # The image's own roots, and one more in their place: that is where it looks.
        roots = (cls.bundle / "rootfs/etc/ssl/certs/ca-certificates.crt").read_text()
        cls.write("roots.crt", roots + (cls.folder / "trusted.pem").read_text())

    @classmethod
    def https(cls, name: str) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), scenario.Origin)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cls.folder / f"{name}.pem", cls.folder / f"{name}.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        # Who does not trust it ends the handshake with an alert: that is what is tested, and no news.
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        return int(server.server_address[1])

    def command(self, name: str, *arguments: str) -> list[str | Path]:
        """What starts a container with this name. umoci has made its configuration from the image's; the rest is what a kubelet asks for."""
        path = self.bundle / "config.json"
        original = self.bundle / "original.json"
        if not original.exists():
            path.rename(original)
        config = json.loads(original.read_text())
        process = config["process"]
        process["terminal"] = False
        if arguments:
            process["args"] = [process["args"][0], *arguments]
        process["capabilities"] = {}
        process["noNewPrivileges"] = True
        process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 20000}]
        config["root"]["readonly"] = True
        memory = [{"destination": to, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=256m"]}
                  for to in ("/tmp", "/var/cache/sidelight", "/var/lib/sidelight")]  # fmt: skip
        files = {"/etc/sidelight": "etc", "/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf", "/etc/ssl/certs/ca-certificates.crt": "roots.crt"}
        bound = [{"destination": to, "type": "bind", "source": str(self.folder / file), "options": ["rbind", "ro"]} for to, file in files.items()]
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/sys")] + memory + bound
        config["linux"].pop("resources", None)
        config["linux"]["seccomp"] = seccomp()
        # The machine's network, for clients and origins of this test.
        config["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        path.write_text(json.dumps(config))
        # crun does not know machines with both versions of cgroups; it is shown the second alone, and told to make none.
        cgroups = 'umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"'
        crun = [kit.tool("crun"), "--root", str(self.folder / "crun"), "--cgroup-manager=disabled", "run", "--bundle", self.bundle]
        return [kit.tool("unshare"), "--mount", "sh", "-c", cgroups, *crun, "--pid-file", self.folder / f"{name}.pid", f"{name}-{os.getpid()}"]

    def test_its_version(self) -> None:
        said = kit.run(self.command("version", "--version")).stdout
        self.assertEqual(said, kit.run([kit.binary(), "--version"]).stdout)

    def test_it_serves(self) -> None:
        process = self.start("serving", self.command("serving"))
        process.ready("answer of Sidelight", lambda: kit.request(self.ports["probes"], "/readyz").status == 200)

        def ask(service: str, path: str = "/pass/a", **more: Any) -> kit.Answer:
            return kit.request(self.ports["http"], path, headers={"host": f"{service}.test"}, **more)

        with self.subTest("names of /etc/hosts and of a name server"):
            self.assertEqual([ask(service).status for service in ("hosts", "dns", "nowhere")], [200, 200, 502])
        with self.subTest("https: roots are found, and are what is trusted"):
            answers = [ask(service).status for service in ("trusted", "untrusted")]
            self.assertEqual(answers, [200, 502], process.text())
            self.assertRegex(process.text(), "(?i)untrusted.*(unknown issuer|UnknownIssuer|certificate)")
        with self.subTest("stores on disk"):
            self.assertEqual(ask("stores", "/kv?store=fruit&key=apple").text, "red")
            self.assertEqual(ask("stores", "/kv?store=fruit&key=pear", method="PUT", body=b"green").status, 200)

        pid = int((self.folder / "serving.pid").read_text())
        with self.subTest("what the process may do"):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
            self.assertEqual(status["Uid"].split(), ["65532"] * 4)
            self.assertEqual(status["Gid"].split(), ["65532"] * 4)
            self.assertEqual(status["Groups"].split(), [])
            self.assertEqual({status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")}, {"0" * 16})
            self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        with self.subTest("where it can write"):
            root = Path(f"/proc/{pid}/root")
            mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
            writable = {place for _, place, kind, options, *_ in mounts if "ro" not in options.split(",") and kind != "proc"}
            self.assertLessEqual(writable, {"/tmp", "/var/cache/sidelight", "/var/lib/sidelight", *(w for w in writable if w.startswith("/dev"))})
            self.assertTrue(list((root / "var/cache/sidelight").iterdir()), "compiled programs are kept")
            self.assertTrue(list((root / "var/lib/sidelight").iterdir()), "stores are kept")
        with self.subTest("SIGTERM"):
            os.kill(pid, signal.SIGTERM)
            self.assertEqual(process.child.wait(30), 0)


class Registry(kit.Case):
    def test_push_and_pull(self) -> None:
        """A real registry takes it, and gives back the same."""
        port = kit.free_port()
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "registry")}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        registry = self.start("registry", [kit.tool("docker-registry"), "serve", self.write("registry.json", json.dumps(config))])
        registry.ready("answer of the registry", lambda: kit.request(port, "/v2/").status == 200)
        said = build(self.folder / "image", "--tag", "pushed", "--push", f"127.0.0.1:{port}/sidelight/sidelight:1.2.3", "--plain-http")
        answer = kit.request(port, "/v2/sidelight/sidelight/manifests/1.2.3", headers={"accept": "application/vnd.oci.image.manifest.v1+json"})
        self.assertEqual(answer.fields["docker-content-digest"], said["digest"])
        skopeo = kit.tool("skopeo")
        there = f"docker://127.0.0.1:{port}/sidelight/sidelight@{said['digest']}"
        kit.run([skopeo, "copy", "--src-tls-verify=false", there, f"oci:{self.folder / 'pulled'}:again"])
        pulled = kit.run([skopeo, "inspect", "--format", "{{.Digest}}", f"oci:{self.folder / 'pulled'}:again"]).stdout.strip()
        self.assertEqual(pulled, said["digest"])


class Sources(unittest.TestCase):
    def test_the_dockerfile(self) -> None:
        kit.run([kit.TOOLS / "venv" / "bin" / "hadolint", "--failure-threshold", "style", IMAGE / "Dockerfile"])

    def test_what_a_build_is_given(self) -> None:
        """Everything that the Dockerfile needs gets through .dockerignore, and nothing that is large or secret."""
        lines = (IMAGE / "Dockerfile.dockerignore").read_text().splitlines()
        kept = [line[1:] for line in lines if line.startswith("!")]
        self.assertIn("*", lines)
        for path in kept:
            self.assertTrue((kit.ROOT / path).exists(), path)
        needed = re.findall(r'^path = "(.*)"', (kit.ROOT / "Cargo.toml").read_text(), re.MULTILINE)
        for path in [*needed, "Cargo.lock", "LICENSE", "deploy/image/rootfs.sh", "deploy/image/sbom.py"]:
            self.assertTrue(any(path == one or path.startswith(f"{one}/") for one in kept), path)

    def test_arguments(self) -> None:
        build_sh = IMAGE / "build.sh"
        self.assertIn("--push", kit.run([build_sh, "--help"]).stdout)
        self.assertIn("unknown: --pull", kit.run([build_sh, "--pull"], expect=2).stderr)
        self.assertIn("--tag wants a value", kit.run([build_sh, "--tag"], expect=2).stderr)
        self.assertIn("is not there", kit.run([build_sh, "--binary", "/nowhere"], expect=2).stderr)


if __name__ == "__main__":
    unittest.main()
