"""The benchmark's harness works, and the page shows what was measured. Times are nobody's business here."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, cargo_target

PAGE = ROOT / "docs" / "performance.md"


def compare(*arguments, **environment) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "benches" / "compare", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def keep(directory, samples):
    (directory / "run.json").write_text(
        '{"date": "2026-01-01", "cores": 2, "cpu": "c", "memory_gb": 1, "kernel": "6", "versions": {}, "rounds": 3, "seconds": 1}')
    rows = [",".join(map(str, sample)) for sample in samples]
    (directory / "samples.csv").write_text("\n".join(["scenario,round,peer,measure,value", *rows]) + "\n")


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where relay, origin, openloop, handshakes and scale are: `PILLION_PROGRAMS`, or built."""
    if given := os.environ.get("PILLION_PROGRAMS"):
        return Path(given).resolve()
    subprocess.run(["cargo", "build", "--locked", "--profile", "counted", "--examples"], cwd=ROOT, check=True)
    return cargo_target() / "counted" / "examples"


@pytest.mark.timeout(300)
def test_every_scenario_measures_what_it_says(binary, programs, tmp_path):
    text = compare(
        "run", "--pillion", binary, "--programs", programs, "--out", tmp_path, "--peer", "haproxy", "--rounds", "1",
        "--seconds", "1", BENCH_HELD="50", BENCH_BURST="200", BENCH_REST="0.5", BENCH_STARTS="2", BENCH_SCENARIOS="",
    )
    assert re.search(r"^Pillion +\d", text, re.MULTILINE) and re.search(r"^HAProxy +\d", text, re.MULTILINE)
    assert re.search(r"^Targets: \d+ of \d+ met$", text, re.MULTILINE), text
    with open(tmp_path / "samples.csv", newline="") as file:
        samples = {(row["scenario"], row["peer"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    for peer in ("pillion", "haproxy"):
        for scenario in (
            "single", "logged", "h2", "grpc", "large", "upload", "tcp", "connect",
            "pair", "handshake", "tls-large", "tls-upload", "tls-tcp",
        ):
            assert samples[scenario, peer, "requests"] > 0
            assert samples[scenario, peer, "cpu_us"] > 0
        assert 0 < samples["latency", peer, "p50_us"] <= samples["latency", peer, "p99_us"]
        assert samples["idle", peer, "idle_mb"] > 1
        assert samples["idle-h2", peer, "idle_mb"] > 1
        assert samples["idle-mtls", peer, "idle_mb"] > 1
        assert samples["start", peer, "first_ms"] > 0
    assert samples["workers", "one", "busier"] == 100
    assert samples["workers", "two", "busier"] < 100
    assert samples["hybrid", "pillion", "hybrid_us"] > 0
    assert samples["growth", "pillion", "kept"] > 0
    assert samples["burst", "pillion", "kept"] > 0
    assert samples["scale", "pillion", "growth"] > 0


def test_ratios_are_made_within_rounds(tmp_path):
    # Pillion costs 1.2 of HAProxy in each round, on a machine that gets slower and slower.
    keep(tmp_path, [
        ("single", number, peer, measure, value)
        for number, slow in ((1, 10), (2, 100), (3, 1000))
        for peer, cost in (("pillion", 1.2 * slow), ("haproxy", slow), ("nginx", 2 * slow))
        for measure, value in (("cpu_us", cost), ("rate", 5), ("pss_mb", 7))])
    text = compare("show", tmp_path)
    assert re.search(r"^HAProxy +100\.0 \(10\.0-1,000\.0\) +1\.20 ", text, re.MULTILINE), text
    assert "CPU a request: 1.20 of HAProxy, the best (at most 0.95): MISSED by 26 %" in text


def test_targets_and_aims(tmp_path):
    keep(tmp_path, [
        ("single", 1, "pillion", "cpu_us", 13), ("single", 1, "relay", "cpu_us", 10),
        ("idle-h2", 1, "pillion", "connection_kb", 30), ("idle-h2", 1, "envoy", "connection_kb", 100)])
    text = compare("show", tmp_path)
    assert "Targets: 2 of 2 met" in text
    assert "1.30 of TCP relay (at most 1.35, aim 1.25): met, aim missed by 4 %" in text
    assert "0.30 of Envoy (at most 0.5): met" in text
    assert "30.0 kB (aim 24): aim missed by 25 %" in text


def test_says_which_scenarios_there_are(binary, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benches" / "compare", "run", "--pillion", binary, "--programs", tmp_path, "--out", tmp_path,
         "--scenarios", "singel"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no scenario 'singel'; there are single, ")


def test_page_shows_a_kept_set():
    kept = re.search(r"Raw data and plots: `(benches/results/[^`]+)`", PAGE.read_text())
    assert kept, "docs/performance.md names no results"
    compare("document", ROOT / kept[1], "--check")
