#!/usr/bin/env bash
# Side by side, on this machine, in one run: a native pingora handler, our hello (a sandbox for each
# request, and sandboxes that are reused) and pass-through,
# nginx static and nginx proxy_pass; hits in our cache (the host's, and the SDK's own way), in nginx's proxy_cache and in
# varnish, of the same object. They take turns in several rounds, each in a different order, so that
# a slow minute of the machine is everybody's; prints the medians and the ratios that count.
# Needs wrk, nginx and varnish. Everything listens on loopback and ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-3}
rounds=${ROUNDS:-5}
connections=${CONNECTIONS:-32}
threads=$(nproc)
for tool in wrk nginx varnishd; do
  command -v "$tool" >/dev/null || { echo "bench-http needs $tool (Debian: apt-get install wrk nginx-light varnish)" >&2; exit 1; }
done

[[ -n ${SKIP_BUILD:-} ]] || cargo build --locked --release --features tools --bin sidelight --bin bench-native
tests/guests/build.sh rust

work=$(mktemp -d)
# varnish reads its file as a user of its own.
chmod 755 "$work"
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
native=$(port); static=$(port); proxy=$(port); hello=$(port); reuse=$(port); pass=$(port)
cached=$(port); guest=$(port); proxycache=$(port); varnish=$(port)

mkdir -p "$work/www"
printf 'Hello, world!\n' > "$work/www/index.html"
# Workers read the folder made above: they must be its owner.
user=$([[ $(id -u) == 0 ]] && echo "user root;" || true)
cat > "$work/nginx.conf" <<CONF
$user
worker_processes $threads;
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work; uwsgi_temp_path $work; scgi_temp_path $work;
  upstream origin { server 127.0.0.1:$static; keepalive 128; keepalive_requests 1000000000; }
  proxy_cache_path $work/cache keys_zone=hits:1m;
  server { listen 127.0.0.1:$static; root $work/www; add_header Cache-Control max-age=3600; }
  server { listen 127.0.0.1:$proxycache; location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache hits; } }
  server { listen 127.0.0.1:$proxy; location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
CONF
cat > "$work/fastly.toml" <<CONF
manifest_version = 3
name = "bench"
[local_server.backends.origin]
url = "http://127.0.0.1:$static"
CONF

nginx -c "$work/nginx.conf" -p "$work" 2>"$work/nginx.log" & pids+=($!)
cat > "$work/varnish.vcl" <<CONF
vcl 4.1;
backend origin { .host = "127.0.0.1"; .port = "$static"; }
CONF
varnishd -F -n "$work/varnish" -a "127.0.0.1:$varnish" -f "$work/varnish.vcl" -s malloc,64m >"$work/varnish.log" 2>&1 & pids+=($!)
target/release/bench-native "127.0.0.1:$native" 2>/dev/null & pids+=($!)
serve() { RUST_LOG=error target/release/sidelight serve -C "$work/fastly.toml" --addr "127.0.0.1:$1" "tests/guests/out/rust/$2.wasm" & pids+=($!); }
serve "$hello" hello
serve "$reuse" hello_reuse
# Past the cache, which would answer otherwise.
serve "$pass" passthrough
serve "$cached" cached
serve "$guest" passthrough_cached

for p in "$native" "$static" "$proxy" "$hello" "$reuse" "$pass" "$cached" "$guest" "$proxycache" "$varnish"; do
  for _ in $(seq 100); do curl -sf -o /dev/null "http://127.0.0.1:$p/" && break; sleep 0.1; done
  curl -sf -o /dev/null "http://127.0.0.1:$p/" || { echo "nothing answers on port $p (native $native, static $static, proxy $proxy, hello $hello, reuse $reuse, pass $pass)" >&2; curl -si "http://127.0.0.1:$p/" >&2 || true; cat "$work"/*.log >&2; exit 1; }
done

measure() { # port -> requests/s
  wrk -t"$threads" -c"$connections" -d"${seconds}s" "http://127.0.0.1:$1/" > "$work/wrk.txt"
  if grep -q 'Non-2xx\|Socket errors' "$work/wrk.txt"; then cat "$work/wrk.txt" >&2; exit 1; fi
  awk '/Requests\/sec/ {print $2}' "$work/wrk.txt"
}
all=(reuse native hello cached guest varnish proxycache static proxy pass)
for name in "${all[@]}"; do wrk -t"$threads" -c"$connections" -d2s "http://127.0.0.1:${!name}/" >/dev/null; done
for ((round = 0; round < rounds; round++)); do
  for ((i = 0; i < ${#all[@]}; i++)); do
    # Neighbours in the order are those that are compared; every other round goes the other way.
    name=${all[round % 2 ? ${#all[@]} - 1 - i : i]}
    measure "${!name}" >> "$work/$name.rates"
  done
done

median() { sort -n "$work/$1.rates" | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# The ratio of every round, lowest and highest.
spread() { paste "$work/$1.rates" "$work/$2.rates" | awk '{printf "%.2f\n", $1 / $2}' | sort -n | sed -n '1p;$p' | paste -sd- | sed 's/-/ to /'; }
awk -v n="$(median native)" -v h="$(median hello)" -v s="$(median static)" -v x="$(median proxy)" -v p="$(median pass)" \
    -v ca="$(median cached)" -v cas="$(spread cached hello)" -v g="$(median guest)" -v gs="$(spread guest hello)" \
    -v nc="$(median proxycache)" -v ncs="$(spread cached proxycache)" -v va="$(median varnish)" -v vas="$(spread cached varnish)" \
    -v u="$(median reuse)" -v us="$(spread reuse native)" \
    -v hs="$(spread hello native)" -v ps="$(spread pass proxy)" -v c="$connections" -v t="$threads" -v r="$rounds" -v d="$seconds" 'BEGIN {
  printf "%d connections, %d cores, %d rounds of %d s, medians\n\n", c, t, r, d
  printf "| what | requests/s | ratio |\n|---|---|---|\n"
  printf "| native pingora handler | %d | 1 |\n", n
  printf "| sidelight, Rust hello | %d | %.2f of native pingora (rounds: %s) |\n", h, h / n, hs
  printf "| sidelight, Rust hello, sandboxes reused | %d | %.2f of native pingora (rounds: %s) |\n", u, u / n, us
  printf "| sidelight, hit in the cache, host caching | %d | %.2f of hello (rounds: %s), %.2f of nginx proxy_cache (%s), %.2f of varnish (%s) |\n", ca, ca / h, cas, ca / nc, ncs, ca / va, vas
  printf "| sidelight, hit in the cache, the SDK caching | %d | %.2f of hello (rounds: %s) |\n", g, g / h, gs
  printf "| nginx, hit in proxy_cache | %d | |\n", nc
  printf "| varnish, hit | %d | |\n", va
  printf "| nginx, static file | %d | |\n", s
  printf "| nginx, proxy_pass to that nginx | %d | 1 |\n", x
  printf "| sidelight, Rust pass-through to that nginx | %d | %.2f of nginx proxy_pass (rounds: %s) |\n", p, p / x, ps
}'
