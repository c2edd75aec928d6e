"""A certification authority and the API server's certificate, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(folder: Path, names: list[str], addresses: list[str]) -> tuple[Path, Path, Path]:
    """The paths of CA certificate, server certificate and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, cert, key, csr = (folder / n for n in ("ca.crt", "ca.key", "server.crt", "server.key", "server.csr"))
    # Names are checked against these alone.
    sans = ",".join([f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses])

    def openssl(*args: str | Path) -> None:
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req",
        "-x509",
        *curve,
        "-keyout",
        ca_key,
        "-out",
        ca,
        "-days",
        "2",
        "-subj",
        "/CN=stand-in CA",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    openssl("req", *curve, "-keyout", key, "-out", csr, "-subj", "/CN=kube-apiserver")
    extensions = folder / "server.ext"
    extensions.write_text(f"subjectAltName={sans}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", "2", "-extfile", extensions)
    return ca, cert, key
