"""The Grafana dashboard and the rules for Prometheus: each query, asked of a real Prometheus that scrapes a real Sidelight at work."""

from __future__ import annotations

import json
import re
import sys
import time
import unittest
from typing import Any

import yaml

import kit
import promql
from promql import Chosen, Prometheus, Refused, Series
from scenario import Scenario

RULES = kit.DEPLOY / "prometheus" / "rules.yml"
DASHBOARD: dict[str, Any] = json.loads(kit.DASHBOARD.read_text())

# Panels in which nothing but zeros is good news that the scenario cannot help: it would take a full disk, a disk that is slower than this one, a
# reader of the log that is gone, or more than a thousand services.
QUIET = {
    "Evicted and refused": {"C", "D"},
    "Log lines lost": {"A"},
    "Services without series": {"A"},
}

VARIABLES = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
ALL_VALUES = {variable["name"]: variable["allValue"] for variable in VARIABLES}


def chosen(**values: list[str]) -> Chosen:
    """Everything, but for what is named."""
    return Chosen({name: values.get(name) for name in ALL_VALUES}, ALL_VALUES)


def metrics() -> dict[str, promql.Metric]:
    return promql.reference(kit.run([kit.binary(), "metrics", "--docs"]).stdout)


def faults(panel: dict[str, Any], target: dict[str, Any], series: list[Series]) -> list[str]:
    """What is wrong with the answer to a panel's query."""
    if not any(one.finite for one in series):
        return ["no value" if series else "no series"]
    wrong = []
    if panel["title"] not in QUIET or target["refId"] not in QUIET[panel["title"]]:
        if not any(value != 0 for one in series for value in one.finite):
            wrong.append("nothing but zeros")
    labels = {label for one in series for label in one.labels}
    wrong += [f"no label {label} for the legend" for label in re.findall(r"{{(\w+)}}", target["legendFormat"]) if label not in labels]
    for transformation in panel.get("transformations", []):
        if transformation["id"] == "filterFieldsByName":
            columns = set(transformation["options"]["include"]["names"]) - {"Value"}
            wrong += [f"no column {column}" for column in columns - labels]
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        unknown = {value for one in series for value in one.finite} - {float(value) for value in mapping["options"]}
        wrong += [f"no word for {value:g}" for value in unknown]
    return wrong


class Shape(unittest.TestCase):
    """The document, without Prometheus."""

    maxDiff = None

    def test_it_is_what_its_source_makes(self) -> None:
        kit.run([sys.executable, kit.DEPLOY / "grafana" / "dashboard.py", "--check"])
        self.assertEqual((kit.DEPLOY / "grafana" / "sidelight.json").resolve(), kit.DASHBOARD.resolve())

    def test_grafana_takes_it(self) -> None:
        """Its own library reads it, and writes the same: a key that it does not know would be gone."""
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard

        register_default_plugins()
        there = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
        # Prometheus' plugin has keys of its own in annotations, which the library does not know.
        gone = [one for one in lost(DASHBOARD, there) if not re.match(r"\.annotations\.list\[\d\]\.(step|\w+Format|tagKeys|useValueForTime):", one)]
        self.assertEqual(gone, [])

    def test_each_panel_says_what_to_do(self) -> None:
        for panel in promql.panels(DASHBOARD):
            with self.subTest(panel["title"]):
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                self.assertGreater(len(panel["description"]), 20)
                self.assertRegex(panel["description"], r"[.)]$")
                self.assertTrue(panel["targets"])

    def test_ids_and_titles_are_unique(self) -> None:
        every = [*DASHBOARD["panels"], *promql.panels(DASHBOARD)]
        ids = [panel["id"] for panel in {id(panel): panel for panel in every}.values()]
        self.assertEqual(len(ids), len(set(ids)))
        titles = [panel["title"] for panel in promql.panels(DASHBOARD)]
        self.assertEqual(sorted(titles), sorted(set(titles)))

    def test_panels_a_description_names_exist(self) -> None:
        titles = {panel["title"] for panel in promql.panels(DASHBOARD)}
        for panel in promql.panels(DASHBOARD):
            for named in re.findall("«(.*?)»", panel["description"]):
                self.assertIn(named, titles, panel["title"])

    def test_no_panel_lies_on_another(self) -> None:
        taken: dict[tuple[int, int], str] = {}
        rows = [[panel for panel in DASHBOARD["panels"]]] + [panel["panels"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
        for group in rows:
            taken.clear()
            for panel in group:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
                for x in range(at["x"], at["x"] + at["w"]):
                    for y in range(at["y"], at["y"] + at["h"]):
                        self.assertNotIn((x, y), taken, f"{panel['title']} lies on {taken.get((x, y))}")
                        taken[x, y] = panel["title"]

    def test_each_source_is_the_chosen_one(self) -> None:
        for panel in promql.panels(DASHBOARD):
            for part in (panel, *panel["targets"]):
                self.assertEqual(part["datasource"], {"type": "prometheus", "uid": "${datasource}"}, panel["title"])

    def test_names(self) -> None:
        """Every name that is asked for exists, and every metric that exists is looked at somewhere."""
        known = metrics()
        queries = [target["expr"] for panel in promql.panels(DASHBOARD) for target in panel["targets"]]
        queries += [variable["query"]["query"] for variable in VARIABLES]
        queries += [one["expr"] for one in DASHBOARD["annotations"]["list"] if "expr" in one]
        for expr in queries:
            self.assertEqual(promql.wrong_names(expr, known), [], expr)
        shown = set().union(*(promql.names(expr, known) for expr in queries))
        self.assertEqual({metric.name for metric in known.values()} - shown, set())

    def test_names_of_rules(self) -> None:
        known = metrics()
        rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
        recorded = [rule["record"] for rule in rules if "record" in rule]
        for rule in rules:
            self.assertEqual(promql.wrong_names(rule["expr"], known, [*recorded, *(name.split(":")[1] for name in recorded)]), [], rule)

    def test_made_up_names_are_found(self) -> None:
        known = metrics()
        self.assertEqual(promql.wrong_names("rate(sidelight_made_up_total[5m])", known), ["there is no sidelight_made_up_total"])
        self.assertEqual(promql.wrong_names("rate(made_up{job=\"a\"}[5m])", known), ["there is no made_up"])
        self.assertEqual(
            promql.wrong_names('sidelight_sandboxes{service=~"$service"}', known), ["sidelight_sandboxes has no label service"]
        )
        self.assertEqual(promql.wrong_names('sidelight_requests_total{service="a"}', known), [])

    def test_rules(self) -> None:
        promtool = kit.tool("promtool")
        kit.run([promtool, "check", "rules", RULES])
        kit.run([promtool, "test", "rules", RULES.with_name("rules_test.yml")], cwd=RULES.parent)


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Where `after` lacks or changes what `before` has. What it adds are defaults."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [one for key, value in before.items() for one in lost(value, after.get(key), f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for at, (b, a) in enumerate(zip(before, after, strict=True)) for one in lost(b, a, f"{path}[{at}]")]
    # Nothing is the same as an empty thing.
    if before == after or (not before and not after):
        return []
    return [f"{path}: {before!r} and {after!r}"]


class Live(kit.Case):
    """Against a Sidelight under load, with faults of each kind."""

    scenario: Scenario
    prometheus: Prometheus
    begun: float
    ended: float

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.scenario = scenario = Scenario(cls)
        # The rules as they are, but for how long they take: what is looked at must fit into this test.
        rules = re.sub(r"\[5m\]", "[4s]", RULES.read_text())
        rules = re.sub(r"for: \w+", "for: 1s", rules)
        cls.write("rules.yml", rules)
        target = f"127.0.0.1:{scenario.ports['probes']}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "sidelight", "static_configs": [{"targets": [target]}]},
                {
                    "job_name": "previews/sidelight",
                    "static_configs": [{"targets": [target], "labels": {"namespace": "previews", "pod": "sidelight-0"}}],
                },
            ],
        }
        cls.prometheus = Prometheus(cls, cls.write("prometheus.yml", yaml.safe_dump(config)))
        scenario.traffic()
        # Prometheus looks for its targets some seconds after its start. Rates need scrapes from before what happens once.
        kit.wait_for("three scrapes", lambda: cls.prometheus.instant("min(count_over_time(sidelight_build_info[1m])) >= 3"))
        cls.begun = time.time() - 3
        scenario.faults()
        time.sleep(4)
        scenario.stop()
        scenario.lose_redis()
        time.sleep(3)
        cls.ended = time.time()

    def series(self, target: dict[str, Any], variables: Chosen) -> list[Series]:
        expr = variables.put(target["expr"])
        if target["instant"]:
            # A machine that is busy may miss a scrape, which ends all series for a second.
            looks = (self.prometheus.instant(expr, self.ended - back) for back in range(10))
            return next((series for series in looks if series), [])
        return self.prometheus.range(expr, self.begun, self.ended, variables.step)

    def check(self, panel: dict[str, Any], variables: Chosen) -> list[str]:
        wrong = []
        for target in panel["targets"]:
            try:
                wrong += [f"{panel['title']} {target['refId']}: {fault}" for fault in faults(panel, target, self.series(target, variables))]
            except Refused as refused:
                wrong.append(f"{panel['title']} {target['refId']}: {refused}")
        return wrong

    def check_all(self, variables: Chosen) -> None:
        self.assertEqual([fault for panel in promql.panels(DASHBOARD) for fault in self.check(panel, variables)], [])

    def test_requests_went_as_they_should(self) -> None:
        self.assertEqual(self.scenario.odd, [])
        self.assertGreater(self.scenario.rounds, 5)

    def test_every_panel_has_values(self) -> None:
        self.check_all(chosen())

    def test_without_labels_of_kubernetes(self) -> None:
        self.assertEqual(self.prometheus.instant('sidelight_build_info{job="sidelight",namespace!=""}'), [])
        self.check_all(chosen(job=["sidelight"]))

    def test_with_labels_of_kubernetes(self) -> None:
        # A slash, dots and a colon: what Grafana escapes.
        instance = f"127.0.0.1:{self.scenario.ports['probes']}"
        self.check_all(chosen(job=["previews/sidelight"], namespace=["previews", "production"], instance=[instance]))

    def test_variables(self) -> None:
        found = {one["name"]: self.prometheus.label_values(chosen().put(one["query"]["query"])) for one in VARIABLES}
        self.assertEqual(found["job"], ["previews/sidelight", "sidelight"])
        self.assertEqual(found["namespace"], ["previews"])
        self.assertEqual(found["instance"], [f"127.0.0.1:{self.scenario.ports['probes']}"])
        self.assertLessEqual({"_none", "shop", "cache", "faults"}, set(found["service"]))
        self.assertLessEqual({"origin", "one", "dynamic"}, set(found["backend"]))
        of_shop = [one for one in VARIABLES if one["name"] == "backend"][0]["query"]["query"]
        self.assertEqual(self.prometheus.label_values(chosen(service=["shop"]).put(of_shop)), ["one", "origin", "three", "two"])

    def test_a_service_by_itself(self) -> None:
        panel = next(panel for panel in promql.panels(DASHBOARD) if panel["title"] == "Rate by service")
        series = self.series(panel["targets"][0], chosen(service=["shop", "cache"]))
        self.assertEqual({one.labels["service"] for one in series}, {"shop", "cache"})

    def test_annotations(self) -> None:
        for one in DASHBOARD["annotations"]["list"]:
            if "expr" not in one:
                continue
            with self.subTest(one["name"]):
                values = [value for series in self.prometheus.range(chosen().put(one["expr"]), self.begun, self.ended, 1) for value in series.finite]
                marks = {value for value in values if value > 0}
                self.assertTrue(marks)
                if one["useValueForTime"]:
                    # Milliseconds of the process's life.
                    self.assertTrue(all((self.begun - 120) * 1000 < mark < self.ended * 1000 for mark in marks), marks)
                else:
                    self.assertIn(0, values)

    def test_every_alert_fires(self) -> None:
        wanted = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule}
        fired = self.prometheus.range('ALERTS{alertstate="firing"}', self.begun, self.ended, 1)
        self.assertEqual({series.labels["alertname"] for series in fired}, wanted)

    def test_recorded_series_have_values(self) -> None:
        for group in yaml.safe_load(RULES.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    series = self.prometheus.range(rule["record"], self.begun, self.ended, 1)
                    self.assertTrue(any(one.finite for one in series), rule["record"])

    def test_what_is_made_up_is_found(self) -> None:
        """The checks above can fail."""
        panel = next(panel for panel in promql.panels(DASHBOARD) if panel["title"] == "Rate by service")

        def with_expr(expr: str, legend: str = "") -> list[str]:
            return self.check({**panel, "targets": [{**panel["targets"][0], "expr": expr, "legendFormat": legend}]}, chosen())

        self.assertEqual(with_expr("sum(rate(sidelight_made_up_total[$__rate_interval]))"), ["Rate by service A: no series"])
        self.assertEqual(with_expr('sidelight_requests_total{service="made-up"}'), ["Rate by service A: no series"])
        self.assertEqual(with_expr("sidelight_requests_total * NaN"), ["Rate by service A: no value"])
        self.assertEqual(with_expr("sidelight_requests_total * 0"), ["Rate by service A: nothing but zeros"])
        self.assertEqual(with_expr("sum(sidelight_requests_total)", "{{service}}"), ["Rate by service A: no label service for the legend"])
        self.assertRegex(with_expr("sum(sidelight_requests_total")[0], "parse error")
        self.assertEqual(with_expr("sum(rate(sidelight_requests_total[$__rate_interval]))"), [])


if __name__ == "__main__":
    unittest.main()
