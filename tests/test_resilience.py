"""What `benches/resilience` measures beside Envoy, held here where no clock is needed for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def figures(binary, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("resilience") / "figures.json"
    subprocess.run(
        [sys.executable, ROOT / "benches/resilience", "--pillion", binary, "--alone", "--out", out, "flaky-get", "flaky-post"],
        check=True, timeout=120,
    )
    return {name: {what: row["Pillion"] for what, row in rows.items()} for name, rows in json.loads(out.read_text())["scenarios"].items()}


SEEN = "requests that endpoints saw, for each that was asked"


def test_reads_succeed_although_one_endpoint_fails_and_one_resets(figures):
    assert figures["flaky-get"]["answered 200"] >= 99.9
    assert figures["flaky-get"][SEEN] <= 1.25


def test_no_write_reaches_the_application_twice(figures):
    assert figures["flaky-post"]["seen more than once"] == 0
    assert figures["flaky-post"][SEEN] <= 1
