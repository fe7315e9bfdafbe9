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
from support.busy import busy, meet_everything
from support.client import fetch
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


# What a busy Pillion shows, and what is asked of it.

#: Not to be brought about on loopback: what the kernel tells of a cgroup is not there on every machine.
UNSEEN = {"pillion_cgroup_cpu_periods_total", "pillion_cgroup_cpu_throttled_periods_total",
          "pillion_cgroup_memory_bytes", "pillion_cgroup_memory_limit_bytes"}


@pytest.fixture(scope="module")
def at_work(shared_pillion, tmp_path_factory):
    with busy(shared_pillion, tmp_path_factory.mktemp("busy")) as (proxy, pki):
        yield proxy, pki


@pytest.fixture(scope="module")
def proxy(at_work):
    return at_work[0]


@pytest.fixture(scope="module")
def catalog(proxy) -> promql.Catalog:
    """Every series with its labels: those of a scrape, those that are documented, and those that are recorded."""
    known = {name: labels or set() for name, labels in promql.documented(ROOT).items()}
    for name, labels, _ in proxy.metrics().samples:
        assert name in known, f"{name} is not in docs/metrics.md"
        known[name] |= set(labels)
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = promql.labels(rule["expr"], known)
    return known


def test_rules_ask_for_what_is_there(catalog):
    for rule in rules():
        promql.labels(rule["expr"], catalog)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_asks_for_what_is_there(path, catalog):
    for expression in expressions(path):
        promql.labels(expression, catalog)
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            assert label in promql.labels(selector.replace("$", ""), catalog)


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs/reasons").glob("*.md")), ROOT / "docs/monitoring.md"],
                         ids=lambda path: path.stem)
def test_page_asks_for_what_is_there(page, catalog):
    text = page.read_text()
    for block in re.findall(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for query in block.splitlines():
            promql.labels(query, catalog)
    named = set(re.findall(r"`((?:pillion|process|http_(?:server|client))_\w+)`", text))
    assert {name for name in named if name not in catalog and f"{name}_count" not in catalog} == set()


def test_every_series_that_is_asked_for_was_seen(proxy):
    asked = {name for rule in rules() for name in promql.metrics(rule["expr"])}
    asked |= {name for path in DASHBOARDS for expression in expressions(path) for name in promql.metrics(expression)}
    recorded = {rule.get("record") for rule in rules()}
    assert asked - recorded - proxy.metrics().names() <= UNSEEN


def test_promtool_likes_the_metrics(proxy):
    text = proxy.admin_get("/metrics").body.decode()
    assert promtool("check", "metrics", input=text) == ""


class Prometheus:
    """The real one, on loopback, with the scrape configuration and the rules that are shipped."""

    def __init__(self, directory: Path, target: str):
        config = yaml.safe_load(SCRAPE.read_text())
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"] = config["scrape_configs"][:1]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (directory / SCRAPE.name).write_text(yaml.safe_dump(config))
        (directory / RULES.name).write_text(RULES.read_text())
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(directory / "log", "w+")
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "prometheus", f"--config.file={directory / SCRAPE.name}",
             f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={self.address}",
             "--enable-feature=exemplar-storage", "--log.level=warn"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def __enter__(self):
        eventually(lambda: self.query("up") and float(self.query("up")[0]["value"][1]) == 1, "Prometheus to scrape", 30)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()

    def get(self, path: str, **parameters):
        try:
            reply = fetch(self.address, target=f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        except OSError as error:
            raise AssertionError(f"Prometheus does not answer: {error}") from error
        assert reply.status == 200, reply
        return json.loads(reply.body)["data"]

    def query(self, expression: str) -> list[dict]:
        return self.get("query", query=expression)["result"]


@pytest.fixture(scope="module")
def prometheus(at_work, tmp_path_factory):
    with Prometheus(tmp_path_factory.mktemp("prometheus"), at_work[0].admin) as prometheus:
        # Once more, so that what was scraped grows.
        meet_everything(*at_work)
        eventually(lambda: prometheus.query("rate(pillion_http_requests_failed_total[1m]) > 0"), "rates", 30)
        yield prometheus


def test_prometheus_scrapes_it(prometheus):
    target, = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert float(prometheus.query("scrape_samples_scraped")[0]["value"][1]) > 100
    assert prometheus.query("http_server_request_duration_seconds_count")


def test_prometheus_evaluates_the_rules(prometheus):
    def evaluated():
        loaded = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert len(loaded) == len(rules())
        assert {rule["health"] for rule in loaded} == {"ok"}, [rule for rule in loaded if rule["health"] != "ok"]
        return True

    eventually(evaluated, "every rule to be evaluated", 30)
    eventually(lambda: prometheus.query('job_route:http_server_errors:ratio5m > 0'), "what was recorded", 30)
    # It has an upstream that is down, and nothing else was said without cause.
    firing = {alert["metric"]["alertname"] for alert in prometheus.query("ALERTS")}
    assert "PillionUpstreamUnavailable" in firing and "PillionReloadRefused" not in firing
    for alert in prometheus.get("alerts")["alerts"]:
        notes = alert["annotations"]
        assert not re.search(r"no value|error expanding|\{\{", " ".join(notes.values())), notes
        assert notes["runbook_url"].startswith("docs/"), notes


def test_prometheus_keeps_the_traces(prometheus):
    asked = {"query": "http_server_request_duration_seconds_bucket", "start": 0, "end": 1 << 33}
    series = eventually(lambda: prometheus.get("query_exemplars", **asked), "exemplars", 30)
    assert all(re.fullmatch("[0-9a-f]{32}", exemplar["labels"]["trace_id"])
               for one in series for exemplar in one["exemplars"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_is_dead(path, prometheus):
    asked = [re.sub(r'=~"\$\w+"', '=~".*"', target["expr"].replace("$__rate_interval", "1m"))
             for panel in panels(path) for target in panel["targets"]]
    here = [expression for expression in asked if not UNSEEN & promql.metrics(expression)]
    silent = lambda: [expression for expression in here if not prometheus.query(expression)]
    # Rules are evaluated a moment later.
    eventually(lambda: not silent(), f"no data for {silent()}", 20)
