"""The benchmark's harness works, and the page shows what was measured. Times are nobody's business here."""

import csv
import os
import re
import subprocess
import sys

from conftest import ROOT

PAGE = ROOT / "docs" / "performance.md"


def compare(*arguments, **environment) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "benches" / "compare", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_measures_what_it_says(binary, tmp_path):
    text = compare(
        "run", "--pillion", binary, "--out", tmp_path, "--peer", "haproxy", "--scenario", "h2", "--scenario", "idle",
        "--rounds", "1", "--seconds", "0.3", BENCH_HELD="50",
    )
    assert re.search(r"^Pillion +\d", text, re.MULTILINE) and re.search(r"^HAProxy +\d", text, re.MULTILINE)
    with open(tmp_path / "samples.csv", newline="") as file:
        samples = {(row["scenario"], row["peer"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    for peer in ("pillion", "haproxy"):
        assert samples["h2", peer, "requests"] > 0
        assert samples["h2", peer, "cpu_us"] > 0
        assert samples["idle", peer, "idle_mb"] > 1


def test_ratios_are_made_within_rounds(tmp_path):
    (tmp_path / "run.json").write_text(
        '{"date": "2026-01-01", "cores": 2, "cpu": "c", "memory_gb": 1, "kernel": "6", "versions": {}, "rounds": 3, "seconds": 1}')
    # Pillion costs 1.2 of HAProxy in each round, on a machine that gets slower and slower.
    rows = [f"single,{number},{peer},{measure},{value}"
            for number, slow in ((1, 10), (2, 100), (3, 1000))
            for peer, cost in (("pillion", 1.2 * slow), ("haproxy", slow))
            for measure, value in (("cpu_us", cost), ("rate", 5), ("pss_mb", 7))]
    (tmp_path / "samples.csv").write_text("\n".join(["scenario,round,peer,measure,value", *rows]) + "\n")
    text = compare("show", tmp_path)
    assert re.search(r"^HAProxy +100\.0 \(10\.0-1,000\.0\) +1\.20 ", text, re.MULTILINE), text
    assert "CPU a request: at most 1.00 of HAProxy; 1.20: missed by 20 %" in text


def test_page_shows_a_kept_set():
    kept = re.search(r"Raw data and plots: `(benches/results/[^`]+)`", PAGE.read_text())
    assert kept, "docs/performance.md names no results"
    compare("document", ROOT / kept[1], "--check")
