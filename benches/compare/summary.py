"""Samples to tables: median, least and greatest, and Pillion's ratio to each peer."""

import statistics
from dataclasses import dataclass

from scenario import Measure, Scenario
from scenarios import SCENARIOS
from targets import TARGETS, Target

NAMES = {
    "pillion": "Pillion", "haproxy": "HAProxy", "envoy": "Envoy", "relay": "TCP relay",
    "two": "two workers", "one": "one worker",
}


@dataclass(frozen=True)
class Cell:
    median: float
    least: float
    greatest: float

    def text(self, digits: int) -> str:
        if self.least == self.greatest:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}-{self.greatest:,.{digits}f})"


@dataclass(frozen=True)
class Verdict:
    """What became of a target. Ratios are medians of the rounds' ratios, to the best peer of the target's."""

    target: Target
    measure: Measure
    value: float
    digits: int
    unit: str

    @property
    def met(self) -> bool | None:
        """`None` for what is only hoped for."""
        return None if self.target.most is None else self.value <= self.target.most

    def text(self) -> str:
        most, aim = self.target.most, self.target.aim
        limits = [*([f"at most {most:g}"] if most is not None else []), *([f"aim {aim:g}"] if aim is not None else [])]
        results = {None: [], True: ["met"], False: [f"MISSED by {missed(self.value, most)}"]}[self.met]
        if aim is not None and self.met is not False:
            results.append("aim reached" if self.value <= aim else f"aim missed by {missed(self.value, aim)}")
        value = f"{self.value:.{self.digits}f} {self.unit}".rstrip()
        return f"{self.measure.label}: {value} ({', '.join(limits)}): {', '.join(results)}"


def missed(value: float, limit: float | None) -> str:
    over = (value / limit - 1) * 100 if limit else 0
    return f"{over:.{0 if over >= 1 else 1}f} %"


class Summary:
    def __init__(self, samples: list[dict]):
        self.values: dict[tuple[str, str, str], dict[int, float]] = {}
        for sample in samples:
            key = sample["scenario"], sample["peer"], sample["measure"]
            self.values.setdefault(key, {})[int(sample["round"])] = float(sample["value"])
        seen = {scenario for scenario, _, _ in self.values}
        self.scenarios = [scenario for scenario in SCENARIOS if scenario.name in seen]

    def peers(self, scenario: Scenario) -> list[str]:
        seen = {peer for name, peer, _ in self.values if name == scenario.name}
        return [peer for peer in scenario.peers if peer in seen]

    def has(self, scenario: Scenario, measure: Measure) -> bool:
        return all((scenario.name, peer, measure.key) in self.values for peer in self.peers(scenario))

    def cell(self, scenario: Scenario, peer: str, measure: str) -> Cell:
        return cell(self.values[scenario.name, peer, measure].values())

    def ratio(self, scenario: Scenario, peer: str, measure: str) -> Cell | None:
        """Our value over the peer's, pair by pair within each round: what both met there cancels out."""
        ours, theirs = (self.values.get((scenario.name, name, measure)) for name in (scenario.us, peer))
        if not ours or not theirs or peer == scenario.us:
            return None
        pairs = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return cell(pairs) if pairs else None

    def rows(self, scenario: Scenario) -> list[list[str]]:
        """A head, then one row a peer."""
        head = ["", *(column for measure in scenario.measures for column in columns(scenario, measure))]
        return [head, *([name(peer), *self.row(scenario, peer)] for peer in self.peers(scenario))]

    def row(self, scenario: Scenario, peer: str) -> list[str]:
        texts = []
        for measure in scenario.measures:
            known = (scenario.name, peer, measure.key) in self.values
            texts.append(self.cell(scenario, peer, measure.key).text(measure.digits) if known else "")
            if measure.ratio and len(scenario.peers) > 1:
                ratio = self.ratio(scenario, peer, measure.key)
                texts.append(ratio.text(2) if ratio else "")
        return texts

    def verdicts(self, scenario: Scenario) -> list["Verdict"]:
        """One for each target that the scenario's samples can judge."""
        found = (self.verdict(scenario, target) for target in TARGETS if target.scenario == scenario.name)
        return [verdict for verdict in found if verdict]

    def verdict(self, scenario: Scenario, target: Target) -> "Verdict | None":
        measure = next(measure for measure in scenario.measures if measure.key == target.measure)
        if (scenario.name, scenario.us, target.measure) not in self.values:
            return None
        if not target.of:
            value = self.cell(scenario, scenario.us, target.measure).median
            return Verdict(target, measure, value, measure.digits, measure.unit)
        ratios = {peer: ratio.median for peer in target.of if (ratio := self.ratio(scenario, peer, target.measure))}
        if not ratios:
            return None
        best = max(ratios, key=lambda peer: ratios[peer])
        return Verdict(target, measure, ratios[best], 2, f"of {name(best)}{', the best' if len(target.of) > 1 else ''}")

    def others(self) -> Cell | None:
        """Share of the proxy's core that went to other programs."""
        shares = [value for (_, _, measure), rounds in self.values.items() if measure == "others" for value in rounds.values()]
        return cell(shares) if shares else None


def cell(values) -> Cell:
    values = list(values)
    return Cell(statistics.median(values), min(values), max(values))


def columns(scenario: Scenario, measure: Measure) -> list[str]:
    unit = f", {measure.unit}" if measure.unit else ""
    ratio = measure.ratio and len(scenario.peers) > 1
    return [f"{measure.label}{unit}", *([f"{name(scenario.us)} / it"] if ratio else [])]


def name(peer: str) -> str:
    return NAMES.get(peer, peer)
