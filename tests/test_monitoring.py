"""deploy/monitoring against the real thing: promtool, a real Prometheus, and what a busy Pillion shows."""

import json
import os
import re
import signal
import subprocess
import textwrap
import urllib.parse
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from support import promql
from support.client import fetch
from support.config import http_config
from support.ports import free_port
from support.wait import eventually

MONITORING = ROOT / "deploy/monitoring"
RULES = MONITORING / "prometheus/pillion.rules.yaml"
SCRAPE = MONITORING / "prometheus/scrape.yaml"
DASHBOARDS = sorted((MONITORING / "grafana").glob("*.json"))
OPERATOR = MONITORING / "kubernetes/prometheusrule.yaml"

OPERATOR_HEAD = """\
# For the Prometheus operator. Made from ../prometheus/pillion.rules.yaml: change that, then
# PILLION_BLESS=1 pytest tests/test_monitoring.py
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pillion
  labels:
    app.kubernetes.io/name: pillion
spec:
"""


def promtool(*arguments, **options) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, cwd=RULES.parent, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    return [rule for rule in rules() if "alert" in rule]


def panels(dashboard: Path) -> list[dict]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def expressions(dashboard: Path) -> list[str]:
    """What its panels ask, with something in place of each variable."""
    return [re.sub(r"\$(__rate_interval|__interval)", "5m", target["expr"]).replace("$", "")
            for panel in panels(dashboard) for target in panel["targets"]]


# Rules.


def test_rules_are_good_and_do_what_they_should():
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", "pillion.rules.test.yaml", timeout=120)


def test_every_alert_is_tested_says_what_to_do_and_leads_somewhere():
    tested = RULES.with_name("pillion.rules.test.yaml").read_text()
    told = (MONITORING / "README.md").read_text()
    for alert in alerts():
        name, notes = alert["alert"], alert["annotations"]
        assert f'"{name}"' in tested or f"alertname: {name}" in tested, name
        assert f"| `{name}` |" in told, name
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert "$labels." in notes["summary"] and "First " in notes["description"], name
        path, _, anchor = notes["runbook_url"].removeprefix("{{ $externalLabels.pillion_docs }}").partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}, name
    assert len(re.findall(r"^\| `Pillion\w+` \|", told, re.MULTILINE)) == len(alerts())


def test_errors_of_the_objective_are_all_but_the_client_s_and_those_told_to_be_refused():
    expression, = [rule["expr"] for rule in rules() if rule.get("record") == "job_route:http_server_errors:rate5m"]
    left_out = re.search(r'error_type!~"\|([^"]+)"', expression)[1].split("|")
    sections = re.split(r"^## (.+)$", (ROOT / "docs/reasons.md").read_text(), flags=re.MULTILINE)
    expected = [name for title, text in zip(sections[1::2], sections[2::2])
                for name, status in re.findall(r"^\| \[?`(\w+)`[^|]*\| [^|]+ \| (\d+) \|", text, re.MULTILINE)
                if title.startswith("The client") or status.startswith("4")]
    assert left_out == expected


def test_the_operator_s_rules_are_the_same():
    made = OPERATOR_HEAD + textwrap.indent(RULES.read_text(), "  ", lambda line: bool(line.strip()))
    if "PILLION_BLESS" in os.environ:
        OPERATOR.write_text(made)
    assert OPERATOR.read_text() == made, "PILLION_BLESS=1 writes it anew"
    assert yaml.safe_load(made)["spec"] == yaml.safe_load(RULES.read_text())


# How it is scraped and loaded.


def test_scrape_configuration_is_good(tmp_path):
    config = yaml.safe_load(SCRAPE.read_text())
    # Debian's build has no discovery by Kubernetes; the rest of that job is checked.
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None) is not None:
            job["static_configs"] = [{"targets": []}]
    (tmp_path / SCRAPE.name).write_text(yaml.safe_dump(config))
    (tmp_path / RULES.name).write_text(RULES.read_text())
    assert "SUCCESS" in promtool("check", "config", tmp_path / SCRAPE.name)


def test_pods_are_found_by_the_port_that_the_manifests_name():
    ports = [port["name"] for manifest in (ROOT / "deploy/kubernetes").glob("*.yaml")
             for port in re.findall(r"\{ (name: .*?) \}", manifest.read_text())
             for port in [yaml.safe_load("{" + port + "}")] if "containerPort" in port]
    monitor = yaml.safe_load((MONITORING / "kubernetes/podmonitor.yaml").read_text())
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == {"probes"} <= set(ports)
    assert "regex: pillion;probes" in SCRAPE.read_text()


def test_kustomization_has_everything():
    config = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    assert {MONITORING / path for path in config["resources"]} == set((MONITORING / "kubernetes").glob("*.yaml"))
    generated, = config["configMapGenerator"]
    assert [MONITORING / path for path in generated["files"]] == DASHBOARDS
    assert generated["options"]["labels"] == {"grafana_dashboard": "1"}


# Dashboards.


def test_dashboards_have_names_of_their_own():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert [board["uid"] for board in boards] == [path.stem for path in DASHBOARDS]
    assert len({board["title"] for board in boards}) == len(boards) == 4


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_is_whole(path):
    board = json.loads(path.read_text())
    assert board["schemaVersion"] >= 38 and [given["pluginId"] for given in board["__inputs"]] == ["prometheus"]
    defined = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= defined
    used = set(re.findall(r"\$\{?(\w+)", path.read_text()))
    assert {name for name in used if not name.startswith("__")} - {"DS_PROMETHEUS"} <= defined
    # None is there for nothing.
    assert defined <= used
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels(path):
        where = panel["title"]
        assert panel["description"].endswith("."), where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert panel["targets"], where
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where
    # Nothing lies upon another.
    places = [(x, y) for panel in board["panels"] for grid in [panel["gridPos"]]
              for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])]
    assert len(places) == len(set(places)) and max(x for x, _ in places) == 23


def test_latency_leads_to_traces():
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                if "_request_duration_seconds_bucket" in target["expr"] and panel["type"] != "stat":
                    assert target.get("exemplar"), f"{path.stem}: {panel['title']}"
