#!/usr/bin/env bash
# What more processes bring and cost, on this machine: one process with a thread for each core, and one, two and four processes with one
# thread each, as replicas that share a Redis. Requests/s of hello, of a hit in the cache, and of a lookup in a KV store in Redis; memory;
# requests to the origin for the same objects; and how long a purge takes to reach the last replica. In one run, interleaved.
#
# usage: benches/scaling.sh [seconds a turn] [rounds] [connections]
# Needs wrk, nginx and redis-server. Everything listens on loopback and ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-3} rounds=${2:-5} connections=${3:-32}
for tool in wrk nginx redis-server; do
  command -v "$tool" >/dev/null || { echo "bench-scaling needs $tool (Debian: apt-get install wrk nginx-light redis-server)" >&2; exit 1; }
done
[[ -n ${SKIP_BUILD:-} ]] || cargo build --release --locked --features tools --bins
work=$(mktemp -d)
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

origin=$(port) redis=$(port)
user=$([[ $(id -u) == 0 ]] && echo "user root;" || true)
mkdir -p "$work/www"
printf 'Hello, world!\n' > "$work/www/index.html"
cat > "$work/nginx.conf" <<CONF
$user
worker_processes 1;
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 1024; }
http {
  log_format path '\$request_uri';
  access_log $work/origin.log path;
  client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work; uwsgi_temp_path $work; scgi_temp_path $work;
  server {
    listen 127.0.0.1:$origin;
    location / { root $work/www; try_files /index.html =404; add_header Cache-Control max-age=3600; add_header Surrogate-Key all; }
  }
}
CONF
nginx -c "$work/nginx.conf" -p "$work" 2>"$work/nginx.log" & pids+=($!)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" 2>&1 & pids+=($!)
cat > "$work/sidelight.toml" <<CONF
redis = { url = "redis://127.0.0.1:$redis" }
[services.hello]
hosts = ["hello.test"]
module = "$PWD/tests/guests/out/rust/hello.wasm"
[services.cached]
hosts = ["cached.test"]
module = "$PWD/tests/guests/out/rust/cached.wasm"
backends.origin.url = "http://127.0.0.1:$origin"
[services.stores]
hosts = ["stores.test"]
module = "$PWD/tests/guests/out/rust/stores.wasm"
kv_stores.catalog = [{ key = "apple", data = "red" }]
CONF

# name -> ports; ports of operators; processes
declare -A at admin process
serve() { # name, processes, threads of each
  local name=$1
  for _ in $(seq "$2"); do
    local here operators
    here=$(port) operators=$(port)
    RUST_LOG=error target/release/sidelight serve -C "$work/sidelight.toml" --threads "$3" --addr "127.0.0.1:$here" --admin "127.0.0.1:$operators" & pids+=($!)
    at[$name]+="$here " admin[$name]+="$operators " process[$name]+="$! "
  done
}
cores=$(nproc)
serve all 1 "$cores"; serve one 1 1; serve two 2 1; serve four 4 1
names=(all one two four)
for name in "${names[@]}"; do
  for p in ${at[$name]}; do
    for _ in $(seq 200); do curl -sf -o /dev/null -H 'Host: hello.test' "http://127.0.0.1:$p/" && break; sleep 0.1; done
    curl -sf -o /dev/null -H 'Host: stores.test' "http://127.0.0.1:$p/kv?store=catalog&key=apple" || { echo "no KV lookup on port $p" >&2; exit 1; }
  done
done

rss() { local sum=0; for p in ${process[$1]}; do sum=$((sum + $(awk '/^VmRSS/ {print $2}' "/proc/$p/status"))); done; echo $((sum / 1024)); }
declare -A idle
for name in "${names[@]}"; do idle[$name]=$(rss "$name"); done

# One wrk for each replica, with its share of the connections; the sum of their rates.
measure() { # name, host, path
  local list sum=0 files=()
  read -ra list <<< "${at[$1]}"
  local waits=()
  # As many threads of load as cores, whatever the number of replicas: at least one for each.
  local each=$((cores / ${#list[@]}))
  for p in "${list[@]}"; do
    files+=("$work/wrk.$p")
    wrk -t$((each > 0 ? each : 1)) -c$((connections / ${#list[@]})) -d"${seconds}s" -H "Host: $2" "http://127.0.0.1:$p$3" > "$work/wrk.$p" & waits+=($!)
  done
  wait "${waits[@]}"
  if grep -q 'Non-2xx\|Socket errors' "${files[@]}"; then cat "${files[@]}" >&2; exit 1; fi
  awk '/Requests\/sec/ {sum += $2} END {print sum}' "${files[@]}"
}
for ((round = 0; round < rounds; round++)); do
  for ((i = 0; i < ${#names[@]}; i++)); do
    name=${names[round % 2 ? ${#names[@]} - 1 - i : i]}
    for work_of in "hello.test /" "cached.test /index.html" "stores.test /kv?store=catalog&key=apple"; do
      read -r host path <<< "$work_of"
      echo "$name ${host%.test} $(measure "$name" "$host" "$path")" >> "$work/rates"
    done
  done
done
declare -A busy
for name in "${names[@]}"; do busy[$name]=$(rss "$name"); done

# The same hundred objects through every replica: requests that the origin gets. Then how long a purge takes until no replica hits.
objects=100
for name in "${names[@]}"; do
  before=$(grep -c '^/o/' "$work/origin.log" || true)
  for p in ${at[$name]}; do
    for ((i = 0; i < objects; i++)); do echo "url = \"http://127.0.0.1:$p/o/$name/$i\""; echo 'output = "/dev/null"'; done > "$work/urls"
    curl -sf -H 'Host: cached.test' --config "$work/urls"
  done
  after=$(grep -c '^/o/' "$work/origin.log" || true)
  first=${admin[$name]%% *}
  for ((n = 0; n < 20; n++)); do
    python3 - "$first" ${at[$name]} <<'PY'
import http.client, sys, time
operators, *replicas = map(int, sys.argv[1:])
def hit(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/purged", headers={"Host": "cached.test"})
    response = connection.getresponse()
    response.read()
    return response.getheader("x-cache", "").split(",")[-1].strip().startswith("HIT")
for port in replicas:
    hit(port)
connection = http.client.HTTPConnection("127.0.0.1", operators)
# Every replica has it.
assert all(hit(port) for port in replicas), "the object is not cached"
begun = time.perf_counter()
connection.request("POST", "/service/cached/purge/all", headers={"Content-Length": "0"})
assert connection.getresponse().status == 200
last = replicas[-1]
while hit(last):
    pass
print(f"{(time.perf_counter() - begun) * 1000:.2f}")
PY
  done >> "$work/purge.$name"
  echo "$name $((after - before)) $(sort -n "$work/purge.$name" | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}') ${idle[$name]} ${busy[$name]}" >> "$work/costs"
done

python3 - "$work/rates" "$work/costs" "$cores" "$seconds" "$rounds" "$connections" "$objects" <<'PY'
import statistics, sys
rates = {}
for line in open(sys.argv[1]):
    name, what, rate = line.split()
    rates.setdefault((name, what), []).append(float(rate))
costs = {line.split()[0]: line.split()[1:] for line in open(sys.argv[2])}
cores, seconds, rounds, connections, objects = sys.argv[3:]
said = {"all": f"1 process, {cores} threads", "one": "1 process, 1 thread", "two": "2 processes, 1 thread each", "four": "4 processes, 1 thread each"}
print(f"{connections} connections in all, {cores} cores for load, servers, origin and Redis, {rounds} interleaved rounds of {seconds} s, medians; in brackets the ratio to one thread\n")
print("| replicas | hello/s | cache hits/s | KV lookups in Redis/s | memory, idle and after load | requests to the origin for %s objects | purge heard by the last |" % objects)
print("|---|---|---|---|---|---|---|")
for name in said:
    cells = []
    for what in ("hello", "cached", "stores"):
        ratios = [a / b for a, b in zip(rates[name, what], rates["one", what])]
        cells.append(f"{statistics.median(rates[name, what]):.0f} ({statistics.median(ratios):.2f})")
    origin, purge, idle, busy = costs[name]
    print(f"| {said[name]} | {' | '.join(cells)} | {idle} MiB, {busy} MiB | {origin} | {purge} ms |")
PY
