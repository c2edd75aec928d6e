"""What a dashboard and rules ask Prometheus for: names and labels in queries, variables put in their places, a client for its HTTP API."""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kit

# Series that Prometheus makes itself.
OWN = {"ALERTS", "up", "scrape_duration_seconds", "scrape_samples_scraped"}
# Labels of a target, and those that a query makes itself.
LABELS_OF_TARGETS = {"job", "instance", "namespace"}

SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^{}]*)\}|(?<![\w\"])\{([^{}]*)\}")
MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"((?:[^\"\\]|\\.)*)\"")
SERIES = re.compile(r"\b(?:sidelight|process)_[a-z0-9_]+\b")


@dataclass
class Metric:
    name: str
    kind: str
    labels: set[str]


def reference(table: str) -> dict[str, Metric]:
    """The table of `sidelight metrics --docs`, with the series that a histogram has."""
    metrics: dict[str, Metric] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 4 or not cells[0].startswith("`"):
            continue
        name, kind = cells[0].strip("`"), cells[1]
        # A label is named at the start, or behind a semicolon; values in the text are not.
        labels = set(re.findall(r"(?:^|; )`(\w+)`:", cells[2]))
        if kind == "histogram":
            metrics[f"{name}_bucket"] = Metric(name, kind, labels | {"le"})
            metrics[f"{name}_sum"] = Metric(name, kind, labels)
            metrics[f"{name}_count"] = Metric(name, kind, labels)
        else:
            metrics[name] = Metric(name, kind, labels)
    return metrics


def wrong_names(expr: str, metrics: Mapping[str, Metric], also: Sequence[str] = ()) -> list[str]:
    """What a query names that no Sidelight has: series, and labels that a series lacks. `also`: names that rules record."""
    wrong = [f"there is no {name}" for name in SERIES.findall(expr) if name not in metrics and name not in also]
    for name, matchers, bare in SELECTOR.findall(expr):
        labels = {label for label, _ in MATCHER.findall(matchers or bare)}
        if not name or name in OWN or name in also:
            continue
        if name not in metrics:
            wrong.append(f"there is no {name}")
            continue
        wrong += [f"{name} has no label {label}" for label in labels - metrics[name].labels - LABELS_OF_TARGETS]
    return wrong


def names(expr: str, metrics: Mapping[str, Metric]) -> set[str]:
    """Families that a query is about, by the name that the reference has."""
    return {metrics[name].name for name in SERIES.findall(expr) if name in metrics}


# -- Grafana's variables ----------------------------------------------------------------------------------------------


@dataclass
class Chosen:
    """What a user has chosen in each variable: None is `All`."""

    values: Mapping[str, Sequence[str] | None]
    all_values: Mapping[str, str]
    step: float = 1.0
    scrape: float = 1.0

    def text(self, name: str) -> str:
        chosen = self.values[name]
        if chosen is None:
            return self.all_values[name]
        escaped = [re.sub(r"([$^*{}\[\]'+?.()|])", r"\\\\\1", value.replace("\\", r"\\\\")) for value in chosen]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    def put(self, expr: str) -> str:
        """The query as Grafana sends it."""
        # The larger of a step with a scrape more and four scrapes, as Grafana's documentation has it.
        interval = f"{max(self.step + self.scrape, 4 * self.scrape):g}s"
        built_in = {"__rate_interval": interval, "__interval": f"{self.step:g}s"}

        def one(found: re.Match[str]) -> str:
            name = found.group(1) or found.group(2)
            if name in built_in:
                return built_in[name]
            # What is no variable stays as it is: `${1}` of label_replace.
            return self.text(name) if name in self.values else found.group(0)

        return re.sub(r"\$(\w+)|\$\{(\w+)\}", one, expr)


# -- Prometheus -------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Prometheus' own words about a query."""


@dataclass
class Series:
    labels: dict[str, str]
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def finite(self) -> list[float]:
        return [value for _, value in self.points if math.isfinite(value)]


class Prometheus:
    """A real one, on loopback."""

    def __init__(self, case: type[kit.Case], config: Path, name: str = "prometheus") -> None:
        self.port = kit.free_port()
        self.process = case.start(
            name,
            [
                kit.tool("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={case.folder / (name + '-data')}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
        )
        self.process.ready("answer of Prometheus", lambda: kit.request(self.port, "/-/ready").status == 200)

    def ask(self, path: str, **query: str) -> Any:
        answer = kit.request(self.port, f"{path}?{urllib.parse.urlencode(query)}").json()
        if answer["status"] != "success":
            raise Refused(answer["error"])
        return answer["data"]

    def instant(self, expr: str, at: float | None = None) -> list[Series]:
        data = self.ask("/api/v1/query", query=expr, **({} if at is None else {"time": str(at)}))
        if data["resultType"] == "scalar":
            return [Series({}, [(float(data["result"][0]), float(data["result"][1]))])]
        return [Series(one["metric"], [(float(one["value"][0]), float(one["value"][1]))]) for one in data["result"]]

    def range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        data = self.ask("/api/v1/query_range", query=expr, start=str(start), end=str(end), step=f"{step:g}")
        return [Series(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in data["result"]]

    def label_values(self, text: str) -> list[str]:
        """`label_values(SELECTOR, LABEL)`, as Grafana asks for it."""
        found = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", text)
        if not found:
            raise Refused(f"not label_values: {text}")
        return list(self.ask(f"/api/v1/label/{found.group(2)}/values", **{"match[]": found.group(1)}))

    def targets(self) -> list[dict[str, Any]]:
        return list(self.ask("/api/v1/targets")["activeTargets"])


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels that are no rows, those within closed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel
