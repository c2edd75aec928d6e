#!/usr/bin/env bash
# Puts load on a service and says how it did: load.sh [OPTION…] URL
#
#   --connections N   that many at once; default: 50
#   --duration TIME   30s (default), 2m
#   --rate N          requests a second, all together (h2load); default: as many as come back
#   --host NAME       the Host that is asked for, where the URL is an address
#   --header 'N: V'   a field of each request; several times
#   --http2           HTTP/2 (h2load; with http:// without TLS)
#   --tool NAME       wrk or h2load; default: wrk, or h2load where the above needs it or wrk is not there
#   --max-p99 MS      fails if one of a hundred requests takes longer
#   --max-errors PC   fails if more than that share, in percent, had no answer or one of 400 and above
#   --min-rate N      fails if fewer requests a second were answered
#
# Prints what it found, and as its last line the same as JSON, for `kubectl logs job/sidelight-load | tail -n 1 | jq`. Exit codes: 0 within the
# bounds, 1 not, 2 bad arguments, 3 no load could be made. Without --rate, a slow service is asked less often: its latency looks better than
# clients find it that do not wait for one another.
set -euo pipefail

usage() { sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
bad() { echo "load.sh: $*" >&2; exit 2; }

connections=50 duration=30s rate='' host='' tool='' http2='' max_p99='' max_errors='' min_rate='' url=''
headers=()
while (($#)); do
    case $1 in
        --connections | --duration | --rate | --host | --tool | --max-p99 | --max-errors | --min-rate)
            (($# > 1)) || bad "$1 wants a value"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        --header)
            (($# > 1)) || bad "$1 wants a value"
            headers+=("$2")
            shift 2
            ;;
        --http2) http2=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; bad "unknown: $1" ;;
        *)
            [[ -z $url ]] || bad "one URL"
            url=$1
            shift
            ;;
    esac
done
[[ $url =~ ^https?://[^/]+ ]] || { usage >&2; bad "an http:// or https:// URL"; }
[[ $url == */* && ${url#*://} == */* ]] || url=$url/
number='^[0-9]+(\.[0-9]+)?$'
[[ $connections =~ ^[1-9][0-9]*$ ]] || bad "--connections $connections"
[[ $duration =~ ^([1-9][0-9]*)(s|m)?$ ]] || bad "--duration $duration"
seconds=${BASH_REMATCH[1]}
[[ ${BASH_REMATCH[2]:-s} == s ]] || seconds=$((seconds * 60))
[[ -z $rate || $rate =~ ^[1-9][0-9]*$ ]] || bad "--rate $rate"
for bound in "$max_p99" "$max_errors" "$min_rate"; do
    [[ -z $bound || $bound =~ $number ]] || bad "no number: $bound"
done

if [[ -z $tool ]]; then
    tool=wrk
    if [[ $rate || $http2 ]] || ! command -v wrk >/dev/null; then tool=h2load; fi
fi
[[ $tool == wrk || $tool == h2load ]] || bad "--tool wrk or h2load"
[[ $tool == h2load || -z $rate$http2 ]] || bad "wrk has neither --rate nor --http2"
command -v "$tool" >/dev/null || { echo "load.sh: $tool is not there (Debian: wrk, nghttp2-client)" >&2; exit 3; }
threads=$(nproc)
((threads <= connections)) || threads=$connections

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Both end by themselves, but for h2load when connections are closed under it.
run() {
    timeout --kill-after=5 "$((seconds + 15))" "$@" >"$work/out" 2>&1 && return
    cat "$work/out" >&2
    echo "load.sh: $1 failed, or did not end" >&2
    exit 3
}

# Either leaves in `found`: requests answered, of those with 400 and above, not answered, seconds, and milliseconds of p50 p90 p99 and the longest.
with_wrk() {
    cat >"$work/report.lua" <<'LUA'
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format("\nRESULT %d %d %d %.3f %.3f %.3f %.3f %.3f\n", summary.requests, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
LUA
    local arguments=(--threads "$threads" --connections "$connections" --duration "${seconds}s" --timeout 30s --script "$work/report.lua")
    [[ -z $host ]] || arguments+=(--header "Host: $host")
    for header in "${headers[@]}"; do arguments+=(--header "$header"); done
    run wrk "${arguments[@]}" "$url"
    found=$(sed -n 's/^RESULT //p' "$work/out")
}

with_h2load() {
    local arguments=(--threads="$threads" --clients="$connections" --duration="$seconds" --log-file="$work/log")
    [[ $http2 ]] || arguments+=(--h1)
    # A rate is one client's; what does not divide makes the whole a little less.
    if [[ $rate ]]; then
        ((rate >= connections)) || bad "--rate $rate is less than one request a second for each of $connections --connections"
        arguments+=(--rps="$((rate / connections))")
    fi
    # h2load makes HTTP/1.1's Host of this one, too.
    [[ -z $host ]] || arguments+=(--header=":authority: $host")
    for header in "${headers[@]}"; do arguments+=(--header="$header"); done
    run h2load "${arguments[@]}" "$url"
    touch "$work/log"
    # Lines of the log: start, status (-1: none), microseconds.
    sort --numeric-sort --key=3,3 "$work/log" >"$work/sorted"
    found=$(awk -v seconds="$seconds" -v failed="$(sed -n 's/^requests: .* \([0-9]*\) errored.*/\1/p' "$work/out")" '
        $2 > 0 { time[++count] = $3; if ($2 >= 400) bad++ }
        function of(share) { at = int(count * share + 0.999999); return count ? time[at < 1 ? 1 : at] / 1000 : 0 }
        END { printf "%d %d %d %.3f %.3f %.3f %.3f %.3f", count, bad, failed, seconds, of(0.5), of(0.9), of(0.99), of(1) }' "$work/sorted")
}

"with_$tool"
read -r answered bad_status lost took p50 p90 p99 longest <<<"$found"
[[ ${longest:-} ]] || { echo "load.sh: $tool said something else than expected:" >&2; cat "$work/out" >&2; exit 3; }
((answered + lost > 0)) || { echo "load.sh: nobody answers at $url" >&2; cat "$work/out" >&2; exit 3; }

share=$(awk -v bad="$((bad_status + lost))" -v all="$((answered + lost))" 'BEGIN { printf "%.3f", 100 * bad / all }')
per_second=$(awk -v count="$answered" -v seconds="$took" 'BEGIN { printf "%.1f", count / seconds }')
failed=()
exceeds() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
[[ -z $max_p99 ]] || ! exceeds "$p99" "$max_p99" || failed+=("p99 of $p99 ms is above $max_p99 ms")
[[ -z $max_errors ]] || ! exceeds "$share" "$max_errors" || failed+=("$share % errors are more than $max_errors %")
[[ -z $min_rate ]] || ! exceeds "$min_rate" "$per_second" || failed+=("$per_second requests a second are fewer than $min_rate")

printf '%s with %s: %s connections for %s s\n' "$url" "$tool" "$connections" "$seconds"
printf '  requests/s  %s (%s answered)\n' "$per_second" "$answered"
printf '  latency     p50 %s ms, p90 %s ms, p99 %s ms, longest %s ms\n' "$p50" "$p90" "$p99" "$longest"
printf '  errors      %s %% (%s answered with 400 and above, %s not answered)\n' "$share" "$bad_status" "$lost"
for reason in "${failed[@]}"; do printf '  FAILED      %s\n' "$reason"; done
ok=true
((${#failed[@]} == 0)) || ok=false
printf '{"tool":"%s","requests":%s,"requests_per_second":%s,"p50_ms":%s,"p90_ms":%s,"p99_ms":%s,"max_ms":%s,"error_percent":%s,"ok":%s}\n' \
    "$tool" "$answered" "$per_second" "$p50" "$p90" "$p99" "$longest" "$share" "$ok"
[[ $ok == true ]]
