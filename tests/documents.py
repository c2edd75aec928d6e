"""The commands of a document: every fenced block of `sh` has a comment in front that says in which surroundings a test runs it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "deploy.md"

# Who runs which.
KIT = {"laptop", "machine", "image"}
CLUSTER = {"kubernetes", "sidecar", "preview", "shared"}

_BLOCK = re.compile(r"(?:^<!-- test: (?P<name>\w+) -->\n)?^```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path = DOCUMENT) -> dict[str, list[str]]:
    """Blocks by surroundings, in the document's order. A block that no test runs is a fault."""
    found: dict[str, list[str]] = {}
    for block in _BLOCK.finditer(document.read_text()):
        name, text = block["name"], block["text"]
        if name not in KIT | CLUSTER:
            raise AssertionError(f"{document.name}: no test runs this block ({name}):\n{text}")
        found.setdefault(name, []).append(text)
    if set(found) != KIT | CLUSTER:
        raise AssertionError(f"{document.name}: {sorted(KIT | CLUSTER)} are to be there, and {sorted(found)} are")
    return found


def checkout(folder: Path, binary: Path) -> Path:
    """A checkout with the binary to test where a release build would be."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name != "target":
            (folder / entry.name).symlink_to(entry)
    release = folder / "target" / "release"
    release.mkdir(parents=True)
    (release / "sidelight").symlink_to(binary)
    return folder


def script(parts: list[str], variables: dict[str, str]) -> str:
    """The blocks as one script, which stops at the first command that fails and says which."""
    head = ["set -Eeuo pipefail", "set -m", "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR"]
    return "\n".join([*head, *(f"export {name}={value}" for name, value in variables.items()), *parts])
