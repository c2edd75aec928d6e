#!/usr/bin/env python3
"""Makes the Grafana dashboard: `dashboard.py` writes it, `dashboard.py --check` says whether what is there is what it would write.

The result is charts/sidelight/files/dashboard.json, which the chart mounts into a ConfigMap; deploy/grafana/sidelight.json leads to it.
Each panel's description says what it shows and, after that, what to do when it looks bad.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[2] / "charts" / "sidelight" / "files" / "dashboard.json"

Json = dict[str, Any]

# What every series is chosen by. `All` stands for `.*`, which fits a label that is not there, too: outside Kubernetes there is no namespace.
PROCESS = 'job=~"$job",namespace=~"$namespace",instance=~"$instance"'
SERVICE = PROCESS + ',service=~"$service"'
BACKEND = SERVICE + ',backend=~"$backend"'

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "orange", "red"

# Conditions on labels.
SERVER_ERRORS = 'code=~"5.."'
FAILURES = 'result!="ok"'
REUSED = 'kind="reused"'
UNFINISHED = 'outcome!="finished"'
USABLE = 'result=~"hit|stale"'
NOT_OK = 'status!="ok"'


def process(metric: str, *more: str) -> str:
    return f"{metric}{{{','.join([PROCESS, *more])}}}"


def service(metric: str, *more: str) -> str:
    return f"{metric}{{{','.join([SERVICE, *more])}}}"


def backend(metric: str, *more: str) -> str:
    return f"{metric}{{{','.join([BACKEND, *more])}}}"


def rate(series: str) -> str:
    return f"rate({series}[$__rate_interval])"


def total(series: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({rate(series)})" if by else f"sum({rate(series)})"


def quantile(q: float, buckets: str, *by: str) -> str:
    return f"histogram_quantile({q}, sum by ({', '.join([*by, 'le'])}) ({rate(buckets)}))"


@dataclass
class Target:
    """A query, and how its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False
    heatmap: bool = False
    exemplars: bool = False


@dataclass
class Panel:
    title: str
    description: str
    targets: list[Target]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    stack: bool = False
    minimum: float | None = 0
    maximum: float | None = None
    # Steps of colour: from which value on. The first is below all.
    steps: list[tuple[str, float | None]] = field(default_factory=list)
    # What to say instead of values, and its colour.
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    nothing: str | None = None
    decimals: int | None = None
    # Tables: columns that are shown, and what they are called.
    columns: dict[str, str] = field(default_factory=dict)
    # Series whose unit is another: a regular expression of names, and the unit.
    other_unit: tuple[str, str] | None = None

    def json(self, number: int, x: int, y: int) -> Json:
        defaults: Json = {"unit": self.unit, "color": {"mode": "palette-classic"}, "mappings": [], "thresholds": thresholds(self.steps)}
        if self.minimum is not None:
            defaults["min"] = self.minimum
        if self.maximum is not None:
            defaults["max"] = self.maximum
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.nothing is not None:
            defaults["noValue"] = self.nothing
        if self.words:
            options = {value: {"text": text, "color": colour, "index": at} for at, (value, (text, colour)) in enumerate(self.words.items())}
            defaults["mappings"] = [{"type": "value", "options": options}]
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {},
            "targets": [query(target, chr(ord("A") + at)) for at, target in enumerate(self.targets)],
        }
        getattr(self, f"_{self.kind.replace('-', '_')}")(panel, defaults)
        if self.other_unit:
            names, unit = self.other_unit
            override = {"matcher": {"id": "byRegexp", "options": f"/{names}/"}, "properties": [{"id": "unit", "value": unit}]}
            panel["fieldConfig"]["overrides"].append(override)
        return panel

    def _timeseries(self, panel: Json, defaults: Json) -> None:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 40 if self.stack else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if self.steps else "off"},
        }
        panel["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _stat(self, panel: Json, defaults: Json) -> None:
        defaults["color"] = {"mode": "thresholds"}
        panel["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none" if self.words else "area",
            "textMode": "auto",
            "justifyMode": "auto",
            "orientation": "auto",
        }

    def _table(self, panel: Json, defaults: Json) -> None:
        defaults["color"] = {"mode": "thresholds"}
        panel["options"] = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}}
        keep = list(self.columns)
        panel["transformations"] = [
            {"id": "filterFieldsByName", "options": {"include": {"names": keep}}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {name: at for at, name in enumerate(keep)},
                    "renameByName": self.columns,
                },
            },
        ]

    def _heatmap(self, panel: Json, defaults: Json) -> None:
        panel["options"] = {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "fill": "dark-orange", "scale": "exponential", "steps": 64},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self.unit},
        }

    def _state_timeline(self, panel: Json, defaults: Json) -> None:
        defaults["color"] = {"mode": "thresholds"}
        defaults["custom"] = {"fillOpacity": 70, "lineWidth": 0, "spanNulls": False}
        panel["options"] = {
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single", "sort": "none"},
        }


def thresholds(steps: list[tuple[str, float | None]]) -> Json:
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in steps or [(GREEN, None)]]}


def query(target: Target, ref: str) -> Json:
    made: Json = {
        "refId": ref,
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": target.expr,
        "legendFormat": target.legend or "__auto",
        "range": not target.instant,
        "instant": target.instant,
    }
    if target.instant:
        made["format"] = "table"
    if target.heatmap:
        made["format"] = "heatmap"
    if target.exemplars:
        made["exemplar"] = True
    return made


@dataclass
class Row:
    title: str
    panels: list[Panel]
    collapsed: bool = True


LIMITS = [
    ("CPU time", "sidelight_guest_cpu_over_production_total"),
    ("requests to backends", "sidelight_guest_backend_requests_over_production_total"),
    ("dynamic backends", "sidelight_guest_dynamic_backends_over_production_total"),
    ("lookups of config stores", "sidelight_guest_config_lookups_over_production_total"),
]

FAILED = (
    f"(sum by (service) ({rate(service('sidelight_requests_total', SERVER_ERRORS))})"
    f" or 0 * {total(service('sidelight_requests_total'), 'service')})"
    f" / ({total(service('sidelight_requests_total'), 'service')} > 0)"
)

ROWS = [
    Row(
        "At a glance",
        collapsed=False,
        panels=[
            Panel(
                "Requests",
                "Requests answered a second, of the services chosen above. If it falls to nothing while clients ask, look at «Replicas» and at what "
                "is in front: requests that do not arrive are not counted.",
                [Target(total(service("sidelight_requests_total")))],
                kind="stat", unit="reqps", width=3, height=4, nothing="none",
            ),
            Panel(
                "Failed",
                "Share of requests answered with a 5xx. When it is high: «Failed by service» says whose, «Guests that failed» and «Requests to "
                "backends that failed» say why, and the log has each cause under the x-request-id that the client got.",
                [Target(
                    f"(sum({rate(service('sidelight_requests_total', SERVER_ERRORS))}) or vector(0))"
                    f" / (sum({rate(service('sidelight_requests_total'))}) > 0)"
                )],
                kind="stat", unit="percentunit", width=3, height=4, decimals=2, nothing="none",
                steps=[(GREEN, None), (YELLOW, 0.01), (RED, 0.05)],
            ),
            Panel(
                "99th percentile",
                "Time from a request's head to the last byte of its response: of a hundred requests, one takes longer. When it is high, compare it "
                "with «Latency of backends» and «CPU time of a request»: one of them explains it, or requests queue for a sandbox.",
                [Target(quantile(0.99, service("sidelight_request_duration_seconds_bucket")))],
                kind="stat", unit="s", width=3, height=4, nothing="none",
            ),
            Panel(
                "Replicas",
                "Processes that Prometheus reaches. Fewer than you run: `kubectl get pods` or `systemctl status sidelight`, and Prometheus' own "
                "page of targets.",
                [Target(f"count({process('sidelight_build_info')})")],
                kind="stat", width=3, height=4, nothing="0", steps=[(RED, None), (GREEN, 1)],
            ),
            Panel(
                "Configuration",
                "Whether the last change is in force on every replica. If it is not, the last good one serves on: GET /status on the admin address "
                "names file, line and remedy; `sidelight check` finds the same before the next attempt.",
                [Target(f"min({process('sidelight_config_last_reload_successful')})")],
                kind="stat", width=3, height=4, words={"1": ("in force", GREEN), "0": ("not in force", RED)},
                steps=[(RED, None), (GREEN, 1)],
            ),
            Panel(
                "Backends that are ill",
                "Backends that fail their health checks, as a replica sees them. They get no requests. «Health» says which; try the check's path "
                "from the replica's network.",
                [Target(f"count({backend('sidelight_backend_healthy')} == 0) or vector(0)")],
                kind="stat", width=3, height=4, steps=[(GREEN, None), (RED, 1)],
            ),
            Panel(
                "First certificate to expire",
                "Time until the first certificate of the listener for clients expires. Below a week, see why it was not renewed (cert-manager, ACME "
                "client); a file that is renewed is read by itself. Nothing here means that TLS ends elsewhere.",
                [Target(f"min({process('sidelight_tls_certificate_not_after_timestamp_seconds')}) - time()")],
                kind="stat", unit="s", width=3, height=4, minimum=None, nothing="no TLS",
                steps=[(RED, None), (YELLOW, 7 * 86400), (GREEN, 21 * 86400)],
            ),
            Panel(
                "Alerts",
                "Alerts of deploy/prometheus/rules.yml that fire. Prometheus' page of alerts, or Alertmanager, says which.",
                [Target('count(ALERTS{alertname=~"Sidelight.*",alertstate="firing"}) or vector(0)')],
                kind="stat", width=3, height=4, steps=[(GREEN, None), (RED, 1)],
            ),
        ],
    ),
    Row(
        "Requests",
        collapsed=False,
        panels=[
            Panel(
                "Rate by service",
                "Requests answered a second. `_none`: no service has the request's host and path. A service that loses its share after a reload "
                "has lost a host or a path: compare /config_dump on the admin address with what was meant.",
                [Target(total(service("sidelight_requests_total"), "service"), "{{service}}")],
                unit="reqps",
            ),
            Panel(
                "By class of status",
                "Requests answered, by the first digit of their status. 5xx: see «Failed by service». Many 4xx from one moment on: a client or a "
                "route has changed; `--access-log` has each.",
                [Target(
                    f'sum by (class) (label_replace({rate(service("sidelight_requests_total"))}, "class", "${{1}}xx", "code", "(.)..")) ',
                    "{{class}}",
                )],
                unit="reqps", stack=True,
            ),
            Panel(
                "Failed by service",
                "Share of each service's requests that got a 5xx. One service: its program or its backends, below. All at once: refused "
                "requests, memory, or a network that is away.",
                [Target(FAILED, "{{service}}")],
                unit="percentunit", maximum=1, steps=[(GREEN, None), (RED, 0.05)],
            ),
            Panel(
                "Latency",
                "Half, nine of ten and ninety-nine of a hundred requests are answered within this time, to the last byte. Points are traces of "
                "single requests (exemplars, if Prometheus keeps them). If all three rise, the host or a backend everyone uses is slow; if only the "
                "last does, a few requests are: open a point's trace, or the inspector.",
                [
                    Target(quantile(0.5, service("sidelight_request_duration_seconds_bucket")), "p50"),
                    Target(quantile(0.9, service("sidelight_request_duration_seconds_bucket")), "p90"),
                    Target(quantile(0.99, service("sidelight_request_duration_seconds_bucket")), "p99", exemplars=True),
                ],
                unit="s",
            ),
            Panel(
                "99th percentile by service",
                "Which service the slow requests are of. Compare with «Latency of backends» of the same service: what is left is the program's own "
                "time, or the client's, who takes the response slowly.",
                [Target(quantile(0.99, service("sidelight_request_duration_seconds_bucket"), "service"), "{{service}}")],
                unit="s",
            ),
            Panel(
                "Distribution of latency",
                "How many requests took how long. Two bands are two kinds of requests (hits and misses, say); a band that appears at a round number "
                "of seconds is a timeout: look for a backend with that timeout.",
                [Target(
                    f"sum by (le) (increase({service('sidelight_request_duration_seconds_bucket')}[$__rate_interval]))", "{{le}}", heatmap=True
                )],
                kind="heatmap", unit="s", minimum=None,
            ),
            Panel(
                "In flight",
                "Requests being answered now, by replica. It is rate times latency: if it climbs at the same rate, something waits. GET "
                "/inspect/requests on the admin address shows for what.",
                [Target(f"sum by (instance) ({process('sidelight_requests_in_flight')})", "{{instance}}")],
            ),
            Panel(
                "Refused",
                "Requests a second that were answered 503, since no sandbox came free within --queue-timeout, and those no service has the host "
                "for. The first: more replicas, a higher --max-sandboxes or limits.sandboxes of the service; a backend that hangs keeps sandboxes, "
                "too. The second: DNS or a route leads here for a host that no service names.",
                [
                    Target(total(process("sidelight_requests_overloaded_total")), "no sandbox in time"),
                    Target(total(process("sidelight_requests_total", 'service="_none"')), "no such service"),
                ],
                unit="reqps",
            ),
            Panel(
                "By method",
                "Requests by method. Methods that no RFC has are `_OTHER`; if there are many, somebody scans.",
                [Target(total(service("sidelight_requests_total"), "method"), "{{method}}")],
                unit="reqps",
            ),
            Panel(
                "Connections of clients",
                "Open connections, and those that a backend has taken over (WebSockets). If the first grows while requests do not, clients or what "
                "is in front do not reuse connections, or keep too many: see --idle-timeout.",
                [
                    Target(f"sum by (instance) ({process('sidelight_connections')})", "open, {{instance}}"),
                    Target(f"sum by (instance) ({process('sidelight_connections_upgraded')})", "taken over, {{instance}}"),
                ],
            ),
            Panel(
                "Bytes of bodies",
                "Bytes of requests' bodies that came in, and of responses' bodies that went out, a second. Compare with what the network and the "
                "machine's limits allow.",
                [
                    Target(total(process("sidelight_request_body_bytes_total")), "in"),
                    Target(total(process("sidelight_response_body_bytes_total")), "out"),
                ],
                unit="Bps",
            ),
            Panel(
                "TLS handshakes that failed",
                "Handshakes of clients that came to nothing, a second. Some are scanners. Many after a change: the certificate does not fit the "
                "host (`openssl s_client`), or clients lack the certificate that --client-cert-required asks for.",
                [Target(total(process("sidelight_tls_handshakes_failed_total"), "instance"), "{{instance}}")],
                unit="cps",
            ),
            Panel(
                "Why clients were refused",
                "What clients were not served for, a second, by reason. `h2`, `h2_streams`: connections that flood; `head_timeout`, `body_timeout`, "
                "`reader_timeout`: clients that hold on to a connection and do nothing with it. A few are scanners and bad networks; many from one "
                "address are an attack: close it off in front. `accept`, `crowded`: this process is short of file descriptors; raise its limit (`ulimit -n`). "
                "`overloaded`, `no_service`: see «Refused».",
                [Target(f"{total(process('sidelight_refusals_total'), 'reason')} > 0", "{{reason}}")],
                width=24, height=6, unit="cps", nothing="none",
            ),
        ],
    ),
    Row(
        "Backends",
        collapsed=False,
        panels=[
            Panel(
                "Requests to backends",
                "Requests to each backend, a second; `dynamic` are those that programs make themselves. More than requests of clients is normal "
                "where a program asks several; a sudden rise without one of clients is a cache that no longer hits.",
                [Target(total(backend("sidelight_backend_requests_total"), "service", "backend"), "{{service}} {{backend}}")],
                unit="reqps",
            ),
            Panel(
                "Requests to backends that failed",
                "Requests that brought no response, by cause as the ABI names it. A 5xx of a backend is a response and not in here. "
                "`connection_refused`, `dns_error`: is it there? `connection_timeout`, `http_response_timeout`: is it slow, or firewalled? "
                "`destination_unavailable`: its health check fails. `tls_…`: certificates.",
                [Target(
                    f"{total(backend('sidelight_backend_requests_total', FAILURES), 'service', 'backend', 'result')} > 0",
                    "{{service}} {{backend}}: {{result}}",
                )],
                unit="reqps", nothing="none",
            ),
            Panel(
                "Share that failed",
                "Failed requests of all to the backend. Above some percent, clients of that service see it, unless the program has something else to say.",
                [Target(
                    f"(sum by (service, backend) ({rate(backend('sidelight_backend_requests_total', FAILURES))})"
                    f" or 0 * {total(backend('sidelight_backend_requests_total'), 'service', 'backend')})"
                    f" / ({total(backend('sidelight_backend_requests_total'), 'service', 'backend')} > 0)",
                    "{{service}} {{backend}}",
                )],
                unit="percentunit", maximum=1, steps=[(GREEN, None), (RED, 0.05)],
            ),
            Panel(
                "Latency of backends",
                "99th percentile of the time to the head of the response, or to the failure. What rises here is the backend's or the network's "
                "doing; «Time to connect» tells the two apart.",
                [Target(quantile(0.99, backend("sidelight_backend_request_duration_seconds_bucket"), "service", "backend"), "{{service}} {{backend}}")],
                unit="s",
            ),
            Panel(
                "Median latency of backends",
                "Half of the requests have the head of their response within this time. If it is far below the 99th percentile, only some requests "
                "are slow: those of new connections, perhaps, or of one instance behind the backend's address.",
                [Target(quantile(0.5, backend("sidelight_backend_request_duration_seconds_bucket"), "service", "backend"), "{{service}} {{backend}}")],
                unit="s",
            ),
            Panel(
                "Time to connect",
                "99th percentile of the time to make a connection: names, TCP and TLS. About a second or more: lost packets or a full backlog. If "
                "only names are slow, see the cluster's DNS (ndots).",
                [Target(quantile(0.99, backend("sidelight_backend_connect_duration_seconds_bucket"), "service", "backend"), "{{service}} {{backend}}")],
                unit="s",
            ),
            Panel(
                "Connections",
                "Connections that requests used: new ones and such as were open already. Mostly new ones: the backend closes (its keep-alive is "
                "shorter than the pauses), or max_uses or max_lifetime_ms of the manifest do; each costs a round trip, with TLS two.",
                [Target(total(backend("sidelight_backend_connections_total"), "kind"), "{{kind}}")],
                unit="cps", stack=True,
            ),
            Panel(
                "Share of reused connections",
                "Of the connections that requests to a backend used. Above 90 % is usual under load.",
                [Target(
                    f"{total(backend('sidelight_backend_connections_total', REUSED), 'service', 'backend')}"
                    f" / ({total(backend('sidelight_backend_connections_total'), 'service', 'backend')} > 0)",
                    "{{service}} {{backend}}",
                )],
                unit="percentunit", maximum=1,
            ),
            Panel(
                "Sent again",
                "Requests that were sent again, since the connection had ended under them. A few are normal; many: the backend's keep-alive time is "
                "shorter than keepalive_time_ms, so lower that.",
                [Target(total(backend("sidelight_backend_retries_total"), "service", "backend"), "{{service}} {{backend}}")],
                unit="reqps",
            ),
            Panel(
                "Health",
                "Backends with a health check, as each replica sees them. One replica alone that sees illness has a network of its own to look at. "
                "A backend that is ill gets no requests; programs get `destination_unavailable`.",
                [Target(backend("sidelight_backend_healthy"), "{{service}} {{backend}} {{instance}}")],
                kind="state-timeline", width=16, minimum=None, nothing="no backend has a health check",
                words={"1": ("healthy", GREEN), "0": ("ill", RED)}, steps=[(RED, None), (GREEN, 1)],
            ),
            Panel(
                "Faults on purpose",
                "What somebody asked Sidelight to do to requests to a backend, a second: `faults` of the manifest, or the admin API. Failures and "
                "latencies of the same time are this test's and not the backend's; GET /faults on the admin address lists what is in force, and "
                "DELETE ends it.",
                [Target(f"{total(backend('sidelight_backend_faults_total'), 'service', 'backend', 'fault')} > 0", "{{service}} {{backend}}: {{fault}}")],
                unit="cps", nothing="none",
            ),
        ],
    ),
    Row(
        "Guests",
        [
            Panel(
                "How guests ended",
                "Executions by outcome. A program that takes several requests in one sandbox is counted once, at its end.",
                [Target(total(service("sidelight_guests_total"), "outcome"), "{{outcome}}")],
                unit="ops", stack=True,
            ),
            Panel(
                "Guests that failed",
                "Executions that did not finish. `trapped`: a fault of the program; the log has the trace of its stack, --core-dumps its memory. "
                "`exited`: it ended with a code of its own. `cpu_limit`, `wall_limit`, `memory_limit`: it wanted more than limits allow. "
                "`host_failed`: ours; please report it. After a deployment: roll back, or let `rollout` do so.",
                [Target(
                    f"{total(service('sidelight_guests_total', UNFINISHED), 'service', 'outcome')} > 0", "{{service}}: {{outcome}}"
                )],
                unit="ops", nothing="none",
            ),
            Panel(
                "CPU by service",
                "Processors that each service's programs use. When the sum comes near the machine's (or the container's limit), requests of all wait: "
                "more replicas, or find what is expensive with POST /inspect/profile.",
                [Target(total(service("sidelight_guest_cpu_seconds_sum"), "service"), "{{service}}")],
                unit="short", stack=True,
            ),
            Panel(
                "CPU time of a request",
                "Half and ninety-nine of a hundred requests used no more CPU time than this. Production stops a program at 50 ms.",
                [
                    Target(quantile(0.5, service("sidelight_guest_cpu_seconds_bucket"), "service"), "p50 {{service}}"),
                    Target(quantile(0.99, service("sidelight_guest_cpu_seconds_bucket"), "service"), "p99 {{service}}"),
                ],
                unit="s", steps=[(GREEN, None), (RED, 0.05)],
            ),
            Panel(
                "Memory of a guest",
                "99th percentile of the linear memory at the end of a request. It does not shrink within a sandbox. Near 128 MiB (limits.memory_mib) "
                "programs fail as `memory_limit`; if it climbs with the age of reused sandboxes, the program keeps what it should not.",
                [Target(quantile(0.99, service("sidelight_guest_memory_bytes_bucket"), "service"), "{{service}}")],
                unit="bytes",
            ),
            Panel(
                "Memory refused",
                "How often a guest asked for more memory and got none. `limit`: it has what one may have (limits.memory_mib); most do not survive "
                "that. `shortage`: the process is short of it; see «Memory», and which service grows above: bound its limits.sandboxes, or give "
                "the container more.",
                [Target(f"{total(service('sidelight_guest_memory_refused_total'), 'service', 'reason')} > 0", "{{service}}: {{reason}}")],
                unit="cps", nothing="none",
            ),
            Panel(
                "Sandboxes",
                "Sandboxes that exist, and of those the ones that wait for another request. Near --max-sandboxes (1000), requests wait and then get "
                "503.",
                [
                    Target(f"sum by (instance) ({process('sidelight_sandboxes')})", "exist, {{instance}}"),
                    Target(f"sum by (instance) ({process('sidelight_sandboxes_waiting')})", "waiting, {{instance}}"),
                ],
            ),
            Panel(
                "New and reused sandboxes",
                "Sandboxes made, and requests that one served after its first. Only programs that ask for several requests are reused; if one of "
                "those is made anew for each request, see reuse_requests, reuse_idle and reuse_memory_mib.",
                [
                    Target(total(process("sidelight_guest_instantiate_seconds_count")), "made"),
                    Target(total(process("sidelight_sandboxes_reused_total")), "reused"),
                ],
                unit="ops", stack=True,
            ),
            Panel(
                "Time to make a sandbox",
                "Usually some tens of microseconds. Milliseconds: the machine is short of memory or of processors.",
                [
                    Target(quantile(0.5, process("sidelight_guest_instantiate_seconds_bucket")), "p50"),
                    Target(quantile(0.99, process("sidelight_guest_instantiate_seconds_bucket")), "p99"),
                ],
                unit="s",
            ),
            Panel(
                "Heavy guests",
                "Executions that computed for more than 5 ms; they go on, or those after them begin, on threads of their own. Many: the machine needs "
                "processors more than anything else.",
                [Target(total(process("sidelight_guests_heavy_total"), "instance"), "{{instance}}")],
                unit="ops",
            ),
            Panel(
                "Above production's limits",
                "Requests that production would have stopped or refused, and that were served here. Each is in the log (target sidelight::limits). "
                "See to them before the program is published; `--limits production` enforces them.",
                [Target(f"sum({rate(process(metric))})", name) for name, metric in LIMITS]
                + [Target(total(process("sidelight_header_fields_over_production_total"), "head"), "header fields of a {{head}}")],
                unit="ops",
            ),
        ],
    ),
    Row(
        "Hostcalls",
        [
            Panel(
                "Calls",
                "The fifteen hostcalls that are called most. Thousands for each request: the program reads bodies in small pieces, or looks the same "
                "thing up again and again.",
                [Target(
                    f"topk(15, {total(process('sidelight_hostcalls_total'), 'interface', 'function')})", "{{interface}}.{{function}}"
                )],
                unit="ops", width=12,
            ),
            Panel(
                "Time within calls",
                "The fifteen hostcalls that most time is spent in, as seconds in a second; those that wait have their wait in it. What is at the top "
                "is what programs wait for: backends (`pending_req_wait`, `send`), bodies, stores.",
                [Target(
                    f"topk(15, {total(process('sidelight_hostcall_duration_seconds_sum'), 'interface', 'function')})",
                    "{{interface}}.{{function}}",
                )],
                unit="s", width=12,
            ),
            Panel(
                "By status",
                "Calls that were not answered `ok`. `none` (there is no such field or key), `buflen` (a longer buffer, please) and `again` are part of "
                "normal work. `error`, `inval`, `badf`, `unsupported`, `limitexceeded` are not: «Calls that failed» says which.",
                [Target(f"{total(process('sidelight_hostcalls_total', NOT_OK), 'status')} > 0", "{{status}}")],
                unit="ops", width=8,
            ),
            Panel(
                "Calls that failed",
                "The fifteen hostcalls that fail most. `-vvv` logs each call with its status; the inspector shows them for a request.",
                [Target(
                    "topk(15, "
                    + total(process("sidelight_hostcalls_total", 'status!~"ok|none|buflen|again"'), "interface", "function", "status")
                    + " > 0)",
                    "{{interface}}.{{function}}: {{status}}",
                )],
                unit="ops", width=8, nothing="none",
            ),
            Panel(
                "Slowest calls",
                "99th percentile of the fifteen slowest hostcalls. Calls that wait for nothing outside take microseconds.",
                [Target(
                    f"topk(15, {quantile(0.99, process('sidelight_hostcall_duration_seconds_bucket'), 'interface', 'function')})",
                    "{{interface}}.{{function}}",
                )],
                unit="s", width=8,
            ),
        ],
    ),
    Row(
        "Cache",
        [
            Panel(
                "Hit ratio",
                "Share of lookups that found something to use, stale or fresh. A fall after a deployment: GET /cache/decisions on the admin address "
                "says for each response why it was not stored, and for what key it was looked up.",
                [Target(
                    f"{total(process('sidelight_cache_lookups_total', USABLE), 'face')}"
                    f" / ({total(process('sidelight_cache_lookups_total'), 'face')} > 0)",
                    "{{face}}",
                )],
                unit="percentunit", maximum=1,
            ),
            Panel(
                "Lookups",
                "Lookups by what they found. Requests that wait for another's fetch (collapsed) are hits. `pass`: responses that may not be stored.",
                [Target(total(process("sidelight_cache_lookups_total"), "face", "result"), "{{face}} {{result}}")],
                unit="ops", stack=True,
            ),
            Panel(
                "Stale",
                "Lookups that got a stale object, while it is fetched again or since its backend fails. If it stays high, revalidation fails: see "
                "«Requests to backends that failed».",
                [Target(total(process("sidelight_cache_lookups_total", 'result="stale"'), "face"), "{{face}}")],
                unit="ops",
            ),
            Panel(
                "Size",
                "Bytes of cached objects. In memory it grows to --cache-memory and stays there; that is no leak.",
                [Target(f"sum by (tier) ({process('sidelight_cache_bytes')})", "{{tier}}")],
                unit="bytes",
            ),
            Panel(
                "Objects",
                "Objects in the cache.",
                [Target(f"sum by (tier) ({process('sidelight_cache_objects')})", "{{tier}}")],
            ),
            Panel(
                "Evicted and refused",
                "Objects that left for want of room, and those too large to be stored. Many evictions with a falling hit ratio: more "
                "--cache-memory. Too large: --cache-object. Disk: writes that failed; the log says why (room, permissions).",
                [
                    Target(total(process("sidelight_cache_evictions_total")), "evicted"),
                    Target(total(process("sidelight_cache_too_large_total")), "too large"),
                    Target(total(process("sidelight_cache_disk_errors_total")), "not written to disk"),
                    Target(total(process("sidelight_cache_disk_skipped_total")), "disk behind"),
                ],
                unit="ops",
            ),
            Panel(
                "Purges",
                "Purges by kind. Each of `all` empties a service's cache: expect backends to feel it.",
                [Target(total(process("sidelight_cache_purges_total"), "kind"), "{{kind}}")],
                unit="ops",
            ),
        ],
    ),
    Row(
        "Stores and log endpoints",
        [
            Panel(
                "Operations of stores",
                "Operations of KV stores, by where the store is kept.",
                [Target(total(process("sidelight_store_operation_seconds_count"), "keep", "operation"), "{{keep}} {{operation}}")],
                unit="ops", width=6,
            ),
            Panel(
                "Time of operations",
                "99th percentile. Milliseconds with Redis are the network; on disk each write waits for the disk to sync.",
                [Target(quantile(0.99, process("sidelight_store_operation_seconds_bucket"), "keep", "operation"), "{{keep}} {{operation}}")],
                unit="s", width=6,
            ),
            Panel(
                "Operations that failed",
                "`unavailable`: what the store is kept in is away or full. `too_many_requests`: writes of one key above the limit. "
                "`precondition_failed` is a program's own condition, and mostly meant.",
                [Target(
                    f"{total(process('sidelight_store_errors_total'), 'keep', 'operation', 'error')} > 0", "{{keep}} {{operation}}: {{error}}"
                )],
                unit="ops", width=6, nothing="none",
            ),
            Panel(
                "Shared state",
                "Whether Redis can be reached. While it is away, KV stores and rate limits in it fail, purges stay local, and /readyz says "
                "`degraded`; everything else goes on.",
                [Target(process("sidelight_state_up"), "{{part}} {{instance}}")],
                kind="state-timeline", width=6, minimum=None, nothing="no shared state",
                words={"1": ("up", GREEN), "0": ("away", RED)}, steps=[(RED, None), (GREEN, 1)],
            ),
            Panel(
                "Records of log endpoints",
                "Records of programs by what became of them. `dropped`: the endpoint is slower than what is written to it (batch, queue). `failed`: "
                "it did not take them in six tries; the log says why.",
                [Target(total(process("sidelight_log_records_total"), "result"), "{{result}}")],
                unit="ops", width=12,
            ),
            Panel(
                "Log lines lost",
                "Lines of the process's own log that nobody took. Who reads standard error is too slow, or gone.",
                [Target(total(process("sidelight_log_lines_lost_total"), "instance"), "{{instance}}")],
                unit="ops", width=12,
            ),
        ],
    ),
    Row(
        "Configuration, programs, certificates",
        [
            Panel(
                "Last verdict",
                "Whether the last change that was tried is in force, by replica. Replicas that differ for longer than some minutes have different "
                "files: compare the digests of GET /config_dump.",
                [Target(process("sidelight_config_last_reload_successful"), "{{instance}}")],
                kind="state-timeline", minimum=None,
                words={"1": ("in force", GREEN), "0": ("refused", RED)}, steps=[(RED, None), (GREEN, 1)],
            ),
            Panel(
                "Generation",
                "Counts the configurations that came into force since the start. A line that climbs without a pause: something writes files all the "
                "time; `changed` in /status names the services.",
                [Target(process("sidelight_config_generation"), "{{instance}}")],
            ),
            Panel(
                "Reloads",
                "Changes that were tried since the processes' starts, by result. `failed`: see «Configuration».",
                [Target(f"sum by (result) ({process('sidelight_config_reloads_total')})", "{{result}}")],
                decimals=0,
            ),
            Panel(
                "Faulty services",
                "Services of services_dir, or of ConfigMaps, whose newest files cannot be used: each serves on as it was, if it was. /status and the "
                "log say which and why, as do the object's events (`kubectl describe configmap`). Old previews of programs that are gone from the "
                "registry, perhaps. In preparation: programs that are fetched, compiled or tried, beside what is served.",
                [
                    Target(process("sidelight_services_faulty"), "faulty {{instance}}"),
                    Target(process("sidelight_services_preparing"), "in preparation {{instance}}"),
                ],
            ),
            Panel(
                "Age of the configuration",
                "Time since a configuration last came into force.",
                [Target(f"time() - {process('sidelight_config_last_reload_success_timestamp_seconds')}", "{{instance}}")],
                unit="s",
            ),
            Panel(
                "Time to load a program",
                "Of all that were loaded since the processes' starts. From the cache of compiled programs it takes some milliseconds; compiling takes "
                "seconds for a large one. If every start compiles, `cache_dir` does not outlive the process.",
                # Most are loaded before the first scrape: a rate would not see them.
                [
                    Target(f"histogram_quantile({q}, sum by (le) ({process('sidelight_module_load_seconds_bucket')}))", name)
                    for q, name in ((0.5, "p50"), (0.99, "p99"))
                ],
                unit="s",
            ),
            Panel(
                "Reading of certificates",
                "Certificate files that have changed and were read again, since the processes' starts. `error`: the old one serves on, until it expires; "
                "the log says what is wrong with the new one.",
                [Target(f"sum by (result) ({process('sidelight_tls_renewals_total')})", "{{result}}")],
                decimals=0, nothing="none",
            ),
            Panel(
                "Programs in force",
                "The program of each service, by its SHA-256, and how many replicas have it. A service with two digests is being rolled out, or "
                "its replicas do not agree.",
                [Target(f"count by (service, digest) ({service('sidelight_module_info')})", instant=True)],
                kind="table", width=12, columns={"service": "service", "digest": "SHA-256", "Value": "replicas"}, minimum=None,
            ),
            Panel(
                "Certificates",
                "Time until each certificate of the listener for clients expires.",
                [Target(
                    f"min by (certificate) ({process('sidelight_tls_certificate_not_after_timestamp_seconds')}) - time()", instant=True
                )],
                kind="table", unit="s", width=12, columns={"certificate": "file", "Value": "expires in"}, minimum=None,
                steps=[(RED, None), (YELLOW, 7 * 86400), (GREEN, 21 * 86400)],
            ),
        ],
    ),
    Row(
        "Telemetry about telemetry",
        [
            Panel(
                "Spans",
                "Spans of traces by what became of them. `failed`: the collector did not take them; `dropped`: the queue was full. Fewer traces "
                "(`sample`), or a collector that keeps up.",
                [Target(total(process("sidelight_trace_spans_total"), "result"), "{{result}}")],
                unit="ops", stack=True,
            ),
            Panel(
                "Services without series",
                "Services beyond 1,000 names that have no series of their own and are counted as `_other`. Old previews that are not deleted, "
                "perhaps.",
                [Target(f"sum by (instance) ({process('sidelight_metrics_series_dropped_total')})", "{{instance}}")],
            ),
            Panel(
                "Scrapes",
                "How long a scrape takes, and how many samples it brings. If the first nears the scrape's timeout, `[metrics] hostcalls = false` "
                "leaves out the most.",
                [
                    Target(process("scrape_duration_seconds"), "duration, {{instance}}"),
                    Target(process("scrape_samples_scraped"), "samples, {{instance}}"),
                ],
                unit="s", other_unit=("^samples", "short"),
            ),
        ],
    ),
    Row(
        "Process",
        [
            Panel(
                "Memory",
                "Resident memory by replica. Its largest parts are the cache (--cache-memory), sandboxes in use and idle slots (--keep-resident). "
                "From 85 % of the limit on, large guests get no more, from 95 % on none does; at the container's limit the process is killed. Raise "
                "that, or lower these.",
                [
                    Target(process("process_resident_memory_bytes"), "used, {{instance}}"),
                    Target(process("sidelight_memory_limit_bytes"), "limit, {{instance}}"),
                ],
                unit="bytes",
            ),
            Panel(
                "Address space",
                "Mostly reserved for sandboxes (about 4 GiB a slot) and not used. It matters only where `ulimit -v` bounds it.",
                [Target(process("process_virtual_memory_bytes"), "{{instance}}")],
                unit="bytes",
            ),
            Panel(
                "Processors",
                "Processors in use, guests included. At the container's limit, the kernel throttles and every latency rises: compare with "
                "`container_cpu_cfs_throttled_periods_total`.",
                [Target(f"sum by (instance) ({rate(process('process_cpu_seconds_total'))})", "{{instance}}")],
            ),
            Panel(
                "File descriptors",
                "Open ones, and how many may be open. Each connection of a client or to a backend is one. Near the limit: LimitNOFILE of the unit, "
                "or fewer connections.",
                [
                    Target(process("process_open_fds"), "open, {{instance}}"),
                    Target(process("process_max_fds"), "limit, {{instance}}"),
                ],
            ),
            Panel(
                "Threads",
                "Threads of the process. Heavy guests get some of their own.",
                [Target(process("process_threads"), "{{instance}}")],
            ),
            Panel(
                "Age of the process",
                "Time since the start. A saw: it is killed or crashes again and again; `kubectl describe pod` (last state) or `journalctl -u sidelight`.",
                [Target(f"time() - {process('process_start_time_seconds')}", "{{instance}}")],
                unit="s",
            ),
            Panel(
                "Versions",
                "Version of each replica.",
                [Target(f"count by (version) ({process('sidelight_build_info')})", instant=True)],
                kind="table", width=24, height=5, columns={"version": "version", "Value": "replicas"}, minimum=None,
            ),
        ],
    ),
]


def variable(name: str, label: str, text: str) -> Json:
    """A variable of several values, from a label of the series. `All` is `.*` and not a list, so that it fits missing labels, too."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": text, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
        "skipUrlSync": False,
    }


VARIABLES: list[Json] = [
    {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "options": [],
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "skipUrlSync": False,
    },
    variable("job", "Job", "label_values(sidelight_build_info, job)"),
    variable("namespace", "Namespace", 'label_values(sidelight_build_info{job=~"$job"}, namespace)'),
    variable("instance", "Instance", 'label_values(sidelight_build_info{job=~"$job",namespace=~"$namespace"}, instance)'),
    variable("service", "Service", f'label_values({{__name__=~"sidelight_module_info|sidelight_requests_total",{PROCESS}}}, service)'),
    variable("backend", "Backend", f"label_values(sidelight_backend_requests_total{{{SERVICE}}}, backend)"),
]


def annotation(name: str, colour: str, expr: str, title: str, *, at_value: bool) -> Json:
    """Marks in all panels: at the times that are a series' values (milliseconds), or wherever there is a value above 0."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "step": "15s",
        "titleFormat": title,
        "textFormat": "{{instance}}",
        "tagKeys": "instance",
        "useValueForTime": at_value,
    }


ANNOTATIONS: list[Json] = [
    {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    },
    annotation(
        "Reloads", "blue", f"{process('sidelight_config_last_reload_success_timestamp_seconds')} * 1000", "A configuration came into force", at_value=True
    ),
    annotation(
        "Refused changes", "red", f"1 - {process('sidelight_config_last_reload_successful')}", "The last change is not in force", at_value=False
    ),
    annotation("Starts", "purple", f"{process('process_start_time_seconds')} * 1000", "The process started", at_value=True),
]


def place(rows: list[Row]) -> list[Json]:
    """Panels from left to right and from top to bottom. Those of a row that is closed are within it.

    The ids of a row's panels count from a hundred of its own, so that links to panels outlast a new panel elsewhere."""
    placed: list[Json] = []
    y = 0
    for at, row in enumerate(rows, start=1):
        head: Json = {
            "id": at * 100,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            "panels": [],
        }
        placed.append(head)
        y += 1
        x = tallest = 0
        for number, panel in enumerate(row.panels, start=1):
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            made = panel.json(at * 100 + number, x, y)
            (head["panels"] if row.collapsed else placed).append(made)
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def dashboard() -> Json:
    return {
        "uid": "sidelight",
        "title": "Sidelight",
        "description": "Fastly Compute programs on your own machines: requests, backends, guests, cache, configuration.",
        "tags": ["sidelight"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "weekStart": "",
        "links": [],
        "annotations": {"list": ANNOTATIONS},
        "templating": {"list": VARIABLES},
        "panels": place(ROWS),
    }


def main() -> int:
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if TARGET.exists() and TARGET.read_text() == text:
            return 0
        print(f"{TARGET} is not what {Path(__file__).name} makes: run it", file=sys.stderr)
        return 1
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
