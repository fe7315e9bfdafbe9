"""The run: every scenario in rounds, in each round every peer once."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from machine import Cores
from origin import Origin
from peer import Peer
from scenario import Scenario, Stage

Samples = list[dict[str, object]]


def run(scenarios: list[Scenario], peers: dict[str, Peer], rounds: int, seconds: float, say: Callable[[str], None]) -> Samples:
    """One sample a measure: scenario, round, peer, measure, value."""
    cores = Cores.choose()
    samples: Samples = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Origin(Path(directory) / "origin", cores.load) as origin:
        for scenario in scenarios:
            taking_part = [peers[name] for name in scenario.peers if name in peers]
            place = Path(directory) / scenario.name
            place.mkdir()
            with scenario.open(Stage(cores, origin.address, place, seconds), taking_part) as turns:
                for number in range(rounds):
                    for name in rotated(list(turns), number):
                        values = turns[name]()
                        say(f"{scenario.name:7} {number + 1}/{rounds} {name:8} " + "  ".join(
                            f"{measure.label} {values[measure.key]:.{measure.digits}f} {measure.unit}".rstrip()
                            for measure in scenario.measures))
                        samples += [
                            {"scenario": scenario.name, "round": number + 1, "peer": name, "measure": key, "value": round(value, 4)}
                            for key, value in values.items()
                        ]
    return samples


def rotated(names: list[str], by: int) -> list[str]:
    """So that nobody always comes after the same one."""
    by %= len(names)
    return names[by:] + names[:by]
