"""The run: every scenario in rounds, in each round every peer once."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import Cores
from origin import Calls, Files
from peer import Peer
from pki import make
from scenario import Scenario, Stage

Samples = list[dict[str, object]]


def run(
    scenarios: list[Scenario], peers: dict[str, Peer], pillion: Path, programs: Path, rounds: int, seconds: float,
    say: Callable[[str], None], keep: Callable[[Samples], None],
):
    """One sample a measure: scenario, round, peer, measure, value. All so far are kept after each scenario."""
    cores, start = Cores.choose(), time.monotonic()
    samples: Samples = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        files = stack.enter_context(Files(directory / "files-origin", cores.load))
        calls = stack.enter_context(Calls(programs / "origin", directory / "calls-origin", cores.load))
        pki = make(pillion, directory / "pki")
        origins = {"files": files.address, "calls": calls.address}
        for nth, scenario in enumerate(scenarios, 1):
            place = directory / scenario.name
            place.mkdir()
            taking_part = [peers[name] for name in scenario.peers if name in peers]
            say(f"{clock(start)}  {nth}/{len(scenarios)} {scenario.name}: {scenario.title}")
            stage = Stage(cores, origins, programs, pki, place, seconds)
            with scenario.open(stage, taking_part) as turns:
                for number in range(1, min(rounds, scenario.most_rounds) + 1):
                    for name in rotated(list(turns), number):
                        values = turns[name]()
                        say(f"{clock(start)}  {scenario.name:11} {number} {name:8} {line(scenario, values)}")
                        samples += [
                            {"scenario": scenario.name, "round": number, "peer": name, "measure": key, "value": round(value, 4)}
                            for key, value in values.items()
                        ]
            keep(samples)


def clock(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes:2}:{seconds:02}"


def line(scenario: Scenario, values: dict[str, float]) -> str:
    return "  ".join(
        f"{measure.label} {values[measure.key]:.{measure.digits}f} {measure.unit}".rstrip() for measure in scenario.measures)


def rotated(names: list[str], by: int) -> list[str]:
    """So that nobody always comes after the same one."""
    by %= len(names)
    return names[by:] + names[:by]
