"""A set of results on disk: `run.json` (where and how), `samples.csv` (every number), `overview.png`, `targets.png`."""

import csv
import json
from pathlib import Path

FIELDS = ["scenario", "round", "peer", "measure", "value"]


def write(directory: Path, run: dict, samples: list[dict]):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    with open(directory / "samples.csv", "w", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(samples)


def read(directory: Path) -> tuple[dict, list[dict]]:
    with open(directory / "samples.csv", newline="") as file:
        return json.loads((directory / "run.json").read_text()), list(csv.DictReader(file))
