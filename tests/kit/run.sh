#!/usr/bin/env bash
# Tests of the operations kit (deploy/ and the chart's dashboard): tests/kit/run.sh [TEST…]
#
# A real Prometheus evaluates every query of the dashboard and the rules while a real Sidelight has good and bad times; the image runs within a
# container runtime, the unit under a systemd of its own, the compose file's parts on a network of their own; load is made; examples are checked
# by those who would read them. A TEST is what unittest takes: test_image, test_systemd.Service.test_reload. The last line is "N passed, N failed".
#
# Needs root, and of Debian: crun curl docker-registry golang-github-containers-common iproute2 jq kubernetes-client (or kubectl) nghttp2-client nginx
# nodejs npm openssl prometheus python3 python3-venv redis-server redis-tools shellcheck skopeo systemd umoci util-linux wrk binutils. Python 3.11. Python's
# and Node's own packages (requirements.txt, package.json) are installed into target/tools/kit, Helm into target/tools, where they stay.
#
# SIDELIGHT_BIN   default: target/release/sidelight, else target/debug/sidelight
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/target/tools/kit
say() { printf 'kit: %s\n' "$*" >&2; }
die() { say "$*"; echo "0 passed, 1 failed"; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
[[ $(id -u) == 0 ]] || die "root is needed, for namespaces and mounts"
missing=()
for tool in cargo chroot crun curl docker-registry ip jq kubectl ldd h2load nginx node npm nsenter openssl prometheus promtool python3 redis-cli \
    redis-server setpriv shellcheck skopeo strip systemctl systemd-analyze umoci unshare wrk; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
[[ -f /usr/share/containers/seccomp.json ]] || missing+=("golang-github-containers-common")
((${#missing[@]} == 0)) || die "please install: ${missing[*]} (Debian's packages are named at the top of ${BASH_SOURCE[0]})"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"

if [[ -z ${SIDELIGHT_BIN:-} ]]; then
    SIDELIGHT_BIN=$root/target/release/sidelight
    [[ -x $SIDELIGHT_BIN ]] || SIDELIGHT_BIN=$root/target/debug/sidelight
fi
[[ -x $SIDELIGHT_BIN ]] || die "there is no target/release/sidelight: cargo build --release, or set SIDELIGHT_BIN"
SIDELIGHT_BIN=$(realpath "$SIDELIGHT_BIN")
export SIDELIGHT_BIN
[[ -f $root/tests/guests/out/rust/hello.wasm ]] || die "the guests are not there: tests/guests/build.sh rust"

mkdir -p "$tools"
if ! cmp --silent "$here/requirements.txt" "$tools/venv/made-from"; then
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2 || die "pip"
    cp "$here/requirements.txt" "$tools/venv/made-from"
fi
if ! cmp --silent "$here/package-lock.json" "$tools/node/package-lock.json"; then
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    cp "$here/package.json" "$tools/node/"
    # The lock comes last: it says that all is there.
    cp "$here/package-lock.json" "$tools/node/npm-shrinkwrap.json"
    (cd "$tools/node" && npm ci --silent --no-audit --no-fund >&2) || die "npm"
    mv "$tools/node/npm-shrinkwrap.json" "$tools/node/package-lock.json"
fi
"$root/tests/cluster/tools.sh" >/dev/null || die "Helm"

cd "$here"
export PYTHONDONTWRITEBYTECODE=1
status=0
"$tools/venv/bin/python" -u -W error::SyntaxWarning run.py "$@" || status=$?
exit "$status"
