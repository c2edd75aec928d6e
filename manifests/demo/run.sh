#!/usr/bin/env bash
# Serves the demo and its origin until interrupted.
set -euo pipefail
cd "$(dirname "$0")/../.."
addr=${1:-127.0.0.1:7676}
origin=${2:-127.0.0.1:7677}

# The origin's address goes over the manifest's.
host=$(mktemp --suffix=.toml)
cat >"$host" <<TOML
[services.sidelight-demo]
manifest = "$PWD/manifests/demo/fastly.toml"
backends.origin.url = "http://$origin"
TOML

target/release/demo-origin "$origin" &
origin_pid=$!
sidelight_pid=
finish() {
  kill "$origin_pid" 2>/dev/null || true
  if [[ -n $sidelight_pid ]]; then kill "$sidelight_pid" 2>/dev/null || true; fi
  wait || true
  rm -f "$host"
}
trap finish EXIT
trap 'exit 0' INT TERM

sleep 0.2
kill -0 "$origin_pid" 2>/dev/null || { echo "the demo's origin did not start" >&2; exit 1; }
target/release/sidelight serve "$host" --addr "$addr" &
sidelight_pid=$!

for _ in $(seq 300); do
  kill -0 "$sidelight_pid" 2>/dev/null || { wait "$sidelight_pid"; exit $?; }
  (exec 3<>"/dev/tcp/${addr%:*}/${addr##*:}") 2>/dev/null && break
  sleep 0.1
done
cat <<TEXT

The demo is served on http://$addr, its origin is http://$origin. Try:

  curl http://$addr/                       a page made by the guest
  curl "http://$addr/hello?name=you"       a greeting made by the guest
  curl -i http://$addr/origin/anything     through the guest, from the origin
  curl -i http://$addr/cached/anything     the same, twice: MISS, then HIT (x-cache)
  curl -N http://$addr/stream              five pieces, one by one
  curl -d 'some text' http://$addr/echo    the request as the guest sees it

Ctrl-C stops both.

TEXT
wait "$sidelight_pid"
