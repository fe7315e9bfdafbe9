"""The shape of a scenario; `scenarios` has them all, `targets` what Pillion is held to."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machine import Cores
from peer import Peer


@dataclass(frozen=True)
class Measure:
    """A column of the tables. Ratios are made of those where less is better."""

    key: str
    label: str
    unit: str
    digits: int = 1
    ratio: bool = True


@dataclass(frozen=True)
class Stage:
    """What a turn is given: `origins` by name, `programs` the folder of our own, `pki` that of the certificates."""

    cores: Cores
    origins: dict[str, str]
    programs: Path
    pki: Path
    directory: Path
    seconds: float


# Yields one function a peer; called once a round, it returns the measures of that turn.
Turn = Callable[[], dict[str, float]]
Open = Callable[[Stage, list[Peer]], contextlib.AbstractContextManager[dict[str, Turn]]]


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    peers: tuple[str, ...]
    measures: tuple[Measure, ...]
    open: Open
    # Whose value the ratios divide by everybody else's.
    us: str = "pillion"
    # Fewer than the run has, where a turn takes long and hardly varies.
    most_rounds: int = 1000
