#!/usr/bin/env bash
# What telemetry costs: Rust hello with hostcalls neither counted nor timed, with metrics (as it is by default), and with traces of 1 % and of all
# requests, to a collector (nginx, which takes everything), to one that refuses, and to nobody. In one run, interleaved; ratios to the first.
#
# usage: benches/telemetry.sh [seconds a turn] [turns each] [connections]
# Needs wrk and nginx. Everything listens on loopback and ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} rounds=${2:-7} connections=${3:-32} threads=2
for tool in wrk nginx; do
  command -v "$tool" >/dev/null || { echo "bench-telemetry needs $tool (Debian: apt-get install wrk nginx-light)" >&2; exit 1; }
done
[[ -n ${SKIP_BUILD:-} ]] || cargo build --release --locked --features tools --bins
work=$(mktemp -d)
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
collector=$(port); refuses=$(port)
user=$([[ $(id -u) == 0 ]] && echo "user root;" || true)
cat > "$work/nginx.conf" <<CONF
$user
worker_processes 1;
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_max_body_size 100m;
  client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work; uwsgi_temp_path $work; scgi_temp_path $work;
  server { listen 127.0.0.1:$collector; location / { return 200; } }
  server { listen 127.0.0.1:$refuses; location / { return 503; } }
}
CONF
nginx -c "$work/nginx.conf" -p "$work" 2>"$work/nginx.log" & pids+=($!)
declare -A at
serve() {
  local name=$1 settings=$2
  at[$name]=$(port)
  mkdir -p "$work/$name"
  printf '%s\n[services.bench]\nmodule = "%s"\n' "$settings" "$PWD/tests/guests/out/rust/hello.wasm" > "$work/$name/sidelight.toml"
  RUST_LOG=error target/release/sidelight serve -C "$work/$name/sidelight.toml" --addr "127.0.0.1:${at[$name]}" & pids+=($!)
}
serve off $'[metrics]\nhostcalls = false'
serve metrics ''
serve one "[traces]
endpoint = \"http://127.0.0.1:$collector\"
sample = \"1%\""
serve all "[traces]
endpoint = \"http://127.0.0.1:$collector\""
serve summary "[traces]
endpoint = \"http://127.0.0.1:$collector\"
hostcalls = \"summary\""
serve refused "[traces]
endpoint = \"http://127.0.0.1:$refuses\"
sample = \"1%\""
serve away "[traces]
endpoint = \"http://127.0.0.1:1\"
sample = \"1%\""
names=(off metrics one all summary refused away)
for name in "${names[@]}"; do
  for _ in $(seq 100); do curl -sf -o /dev/null "http://127.0.0.1:${at[$name]}/" && break; sleep 0.1; done
  wrk -t"$threads" -c"$connections" -d1s "http://127.0.0.1:${at[$name]}/" >/dev/null
done
for ((round = 0; round < rounds; round++)); do
  for name in "${names[@]}"; do
    wrk -t"$threads" -c"$connections" -d"${seconds}s" "http://127.0.0.1:${at[$name]}/" > "$work/wrk.txt"
    if grep -q 'Non-2xx\|Socket errors' "$work/wrk.txt"; then cat "$work/wrk.txt" >&2; exit 1; fi
    awk -v n="$name" '/Requests\/sec/ {print n, $2}' "$work/wrk.txt" >> "$work/results"
  done
done
python3 - "$work/results" "$seconds" "$rounds" "$connections" <<'PY'
import statistics, sys
rates = {}
for line in open(sys.argv[1]):
    name, rate = line.split()
    rates.setdefault(name, []).append(float(rate))
what = {
    "off": "hostcalls neither counted nor timed", "metrics": "metrics only, the default", "one": "traces of 1 %", "all": "traces of all requests",
    "summary": "the same without spans of hostcalls", "refused": "1 %, the collector refuses", "away": "1 %, the collector is away",
}
print(f"Rust hello, {sys.argv[4]} connections, {sys.argv[3]} interleaved rounds of {sys.argv[2]} s; the median of the rounds' ratios\n")
print("| telemetry | requests/s | of the first |\n|---|---|---|")
for name, of in rates.items():
    ratios = [a / b for a, b in zip(of, rates["off"])]
    print(f"| {what[name]} | {statistics.median(of):.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
PY
