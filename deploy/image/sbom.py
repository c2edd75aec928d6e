#!/usr/bin/env python3
"""What the image holds, for others to check: a CycloneDX bill of materials, and the licences that must come along.

    sbom.py BINARY FOLDER [LIBRARY…]

writes FOLDER/usr/share/sbom/sidelight.cdx.json and FOLDER/usr/share/doc/sidelight/. Crates are those that cargo links into
the binary (no tests, no build scripts, no procedural macros), with the checksums of Cargo.lock. LIBRARY: files of Debian packages in the image.
The outcome depends on nothing else but SOURCE_DATE_EPOCH and SIDELIGHT_REVISION.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]

# Texts that must come along, in a crate's own folder.
LICENCE_FILES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)([-_.].*)?", re.IGNORECASE)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def linked(metadata: Json, target: str) -> list[Json]:
    """The packages whose code is in the binary, our own first: what normal dependencies lead to, but for what runs at compile time.

    `cargo metadata` counts features that only tests ask for; `cargo tree` does not."""
    edges = "--edges=normal,no-proc-macro"
    tree = output("cargo", "tree", "--locked", "--offline", edges, f"--target={target}", "--prefix=none", "--format={p}")
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    root = metadata["resolve"]["root"]
    packages = [one for one in metadata["packages"] if (one["name"], f"v{one['version']}") in names]
    if len(packages) != len(names):
        raise SystemExit("cargo tree and cargo metadata do not agree")
    return sorted(packages, key=lambda one: (one["id"] != root, one["name"], one["version"]))


def expression(text: str) -> str:
    """Crates of old write `MIT/Apache-2.0` for SPDX's OR."""
    return re.sub(r"\s*/\s*", " OR ", text)


def purl(kind: str, name: str, version: str, **more: str) -> str:
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(more.items()))
    return f"pkg:{kind}/{name}@{quote(version, safe='.-_~')}" + (f"?{query}" if query else "")


def crate(package: Json, checksums: dict[tuple[str, str], str]) -> Json:
    name, version = package["name"], package["version"]
    identity = purl("cargo", name, version)
    made: Json = {"type": "library", "bom-ref": identity, "name": name, "version": version, "purl": identity}
    if package["license"]:
        made["licenses"] = [{"expression": expression(package["license"])}]
    elif package["license_file"]:
        made["licenses"] = [{"license": {"name": f"see {package['license_file']} of the crate"}}]
    checksum = checksums.get((name, version))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def debian(files: Iterable[str]) -> list[Json]:
    """The packages that the files are of."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(owner(file), []).append(file)
    made = []
    for name, theirs in sorted(names.items()):
        fields = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}"
        package, version, architecture, source, source_version = output("dpkg-query", "-W", f"-f={fields}", name).split("\t")
        upstream = {} if (source, source_version) == (package, version) else {"upstream": f"{source}@{source_version}"}
        identity = purl("deb/debian", package, version, arch=architecture, distro=f"debian-{release()}", **upstream)
        made.append({
            "type": "library",
            "bom-ref": identity,
            "name": package,
            "version": version,
            "purl": identity,
            "licenses": [{"license": {"name": f"see /usr/share/doc/{package}/copyright"}}],
            "properties": [{"name": "sidelight:file", "value": file} for file in sorted(theirs)],
        })
    return made


def owner(file: str) -> str:
    """The package that a file is of. With a merged /usr, dpkg knows some files of /lib by that name and some as of /usr/lib."""
    path = Path(file)
    for name in dict.fromkeys([file, str(path.resolve()), f"/usr{file}", str(path.resolve()).removeprefix("/usr")]):
        done = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.splitlines()[0].rsplit(": ", 1)[0].split(",")[0]
    # It is put together when the package is installed, and of no package's list.
    if path.name == "ca-certificates.crt":
        return "ca-certificates"
    raise SystemExit(f"{file} is of no Debian package")


def release() -> str:
    return re.sub(r"\..*", "", Path("/etc/debian_version").read_text().strip())


def bill(binary: Path, crates: list[Json], metadata: Json, files: list[str]) -> Json:
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(one["name"], one["version"]): one["checksum"] for one in lock["package"] if "checksum" in one}
    components = [crate(package, checksums) for package in crates[1:]] + debian(files)
    own = crates[0]
    identity = purl("generic", "sidelight", own["version"])
    properties = {"sidelight:revision": os.environ.get("SIDELIGHT_REVISION", "")}
    subject: Json = {
        "type": "application",
        "bom-ref": identity,
        "name": own["name"],
        "version": own["version"],
        "description": own["description"],
        "purl": identity,
        "licenses": [{"expression": own["license"]}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(binary.read_bytes()).hexdigest()}],
        "properties": [{"name": name, "value": value} for name, value in properties.items() if value],
    }
    refs = {package["id"]: purl("cargo", package["name"], package["version"]) for package in crates}
    refs[own["id"]] = identity
    system = [one["bom-ref"] for one in components if one["purl"].startswith("pkg:deb/")]
    dependencies = []
    for node in metadata["resolve"]["nodes"]:
        if node["id"] in refs:
            normal = [one["pkg"] for one in node["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]
            on = {refs[one] for one in normal if one in refs} | (set(system) if node["id"] == own["id"] else set())
            dependencies.append({"ref": refs[node["id"]], "dependsOn": sorted(on)})
    dependencies += [{"ref": one, "dependsOn": []} for one in system]
    made: Json = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject,
        },
        "components": components,
        "dependencies": sorted(dependencies, key=lambda one: one["ref"]),
    }
    # A name of its own for each content, and the same for the same.
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).digest()
    made["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"
    return made


def licences(crates: list[Json]) -> str:
    """The texts of all crates, each once, with the names of those it is of."""
    texts: dict[str, list[str]] = {}
    without = []
    for package in crates[1:]:
        folder = Path(package["manifest_path"]).parent
        files = sorted(file for file in folder.iterdir() if file.is_file() and LICENCE_FILES.fullmatch(file.name))
        if package["license_file"] and not files:
            files = [folder / package["license_file"]]
        name = f"{package['name']} {package['version']}"
        if not files:
            without.append(f"{name} ({package['license'] or 'no licence named'}; its authors: {', '.join(package['authors']) or 'not named'})")
        for file in files:
            text = file.read_text(errors="replace").replace("\r\n", "\n").strip()
            texts.setdefault(text, []).append(name)
    parts = ["Sidelight is linked with these crates. Their licences are below, each with the crates it is of."]
    parts += [f"{'=' * 120}\n{', '.join(dict.fromkeys(names))}\n{'=' * 120}\n\n{text}" for text, names in texts.items()]
    parts.append(f"{'=' * 120}\nCrates that come without a text:\n{'=' * 120}\n\n" + "\n".join(without))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    binary, folder, files = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    machine = os.environ.get("SIDELIGHT_TARGET") or f"{os.uname().machine}-unknown-linux-gnu"
    metadata = json.loads(output("cargo", "metadata", "--locked", "--offline", "--format-version=1", f"--filter-platform={machine}"))
    crates = linked(metadata, machine)

    made = folder / "usr/share/sbom/sidelight.cdx.json"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(json.dumps(bill(binary, crates, metadata, files), indent=1, ensure_ascii=False) + "\n")
    texts = folder / "usr/share/doc/sidelight"
    texts.mkdir(parents=True, exist_ok=True)
    (texts / "LICENSE").write_text((ROOT / "LICENSE").read_text())
    (texts / "crates.txt").write_text(licences(crates))
    for package in debian(files):
        target = folder / "usr/share/doc" / package["name"]
        target.mkdir(parents=True, exist_ok=True)
        (target / "copyright").write_bytes(Path("/usr/share/doc", package["name"], "copyright").resolve().read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
