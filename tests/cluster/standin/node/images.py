"""Images: what a reference stands for here. None is pulled; a test says which there are."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Image:
    rootfs: Path
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    cwd: str = "/"


@dataclass
class Images:
    """References, with `*` for any part of one, to images; for image volumes, to folders."""

    known: dict[str, Image] = field(default_factory=dict)
    volumes: dict[str, Path] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, reference: str, image: Image) -> None:
        with self.lock:
            self.known[reference] = image

    def remove(self, reference: str) -> None:
        with self.lock:
            self.known.pop(reference, None)

    def find(self, reference: str) -> Image | None:
        with self.lock:
            if reference in self.known:
                return self.known[reference]
            return next((i for pattern, i in self.known.items() if fnmatch.fnmatchcase(reference, pattern)), None)

    def volume(self, reference: str) -> Path | None:
        with self.lock:
            return next((f for pattern, f in self.volumes.items() if fnmatch.fnmatchcase(reference, pattern)), None)


def of_binary(binary: Path, target: str, folder: Path, user: str = "65532:65532") -> Image:
    """An image like those FROM scratch: a program, the libraries it loads, root certificates, and nothing else."""
    place = folder / target.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(binary, place)
    place.chmod(0o755)
    for library in _libraries(binary):
        copy = folder / str(library).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library.resolve(), copy)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        (folder / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy2(certificates, folder / "etc/ssl/certs")
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc/passwd").write_text("nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")
    (folder / "etc/group").write_text("nonroot:x:65532:\n")
    (folder / "tmp").mkdir(mode=0o1777, exist_ok=True)
    return Image(folder, (target,), user=user)


def _libraries(binary: Path) -> list[Path]:
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True)
    found = []
    for line in done.stdout.splitlines():
        path = next((w for w in line.split() if w.startswith("/")), None)
        if path:
            found.append(Path(path))
    return found


# The machine itself as an image, for helpers: whatever is installed here is in it.
HOST = Image(Path("/"), user="0")
