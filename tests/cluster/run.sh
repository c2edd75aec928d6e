#!/usr/bin/env bash
# Tests of the Helm chart and the real binary in a cluster: tests/cluster/run.sh [WORD …]
# With words, only tests that have one of them in their names.
#
# There is no Kubernetes here: standin/ is an API server, controllers, kubelet, Services, DNS and a gateway that Helm and kubectl take
# for one. Containers are real, under crun, in namespaces. README.md has the rest. The last line is "N passed, N failed"; the exit code says the same.
#
# Needs root, python3 (3.11 or newer) with PyYAML and pip, and these packages of Debian:
#   crun golang-github-containers-common iproute2 openssl perl docker-registry redis-server curl python3-yaml
# Programs come from tests/guests/build.sh (rust, js). Installs Helm and kubectl into target/tools, where they stay.
#
#   SIDELIGHT_BIN       default: target/release/sidelight, else target/debug/sidelight
#   SIDELIGHT_CHART     default: charts/sidelight
#   CLUSTER_JOBS        how many test classes run at once (4)
#   CLUSTER_ALLOW_OLD   leaves out what the binary does not have yet
#   KEEP                keeps the folder of the run in /tmp, with all logs
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { printf 'cluster: %s\n' "$*" >&2; exit 1; }

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need python3 python3
need crun crun
need ip iproute2
need openssl openssl
need perl perl
need docker-registry docker-registry
need redis-server redis-server
need curl curl
[[ -f /usr/share/containers/seccomp.json ]] || missing+=(golang-github-containers-common)
((${#missing[@]} == 0)) || die "please install: ${missing[*]}"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
python3 -c 'import yaml' 2>/dev/null || die "PyYAML is needed: python3-yaml"
[[ $(id -u) == 0 ]] || die "namespaces and mounts need root"

"$here/tools.sh" >/dev/null
exec python3 "$here/run.py" "$@"
