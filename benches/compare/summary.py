"""Samples to tables: median, least and greatest, and Pillion's ratio to each peer."""

import statistics
from dataclasses import dataclass

from scenario import SCENARIOS, Aim, Measure, Scenario

US = "pillion"


@dataclass(frozen=True)
class Cell:
    median: float
    least: float
    greatest: float

    def text(self, digits: int) -> str:
        if self.least == self.greatest:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}-{self.greatest:,.{digits}f})"


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

    def cell(self, scenario: Scenario, peer: str, measure: str) -> Cell:
        return cell(self.values[scenario.name, peer, measure].values())

    def ratio(self, scenario: Scenario, peer: str, measure: str) -> Cell | None:
        """Pillion's value over the peer's, pair by pair within each round: what both met there cancels out."""
        ours, theirs = (self.values.get((scenario.name, name, measure)) for name in (US, peer))
        if not ours or not theirs or peer == US:
            return None
        pairs = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return cell(pairs) if pairs else None

    def rows(self, scenario: Scenario) -> list[list[str]]:
        """A head, then one row a peer."""
        head = ["", *(column for measure in scenario.measures for column in columns(measure))]
        return [head, *([name(peer), *self.row(scenario, peer)] for peer in self.peers(scenario))]

    def row(self, scenario: Scenario, peer: str) -> list[str]:
        texts = []
        for measure in scenario.measures:
            known = (scenario.name, peer, measure.key) in self.values
            texts.append(self.cell(scenario, peer, measure.key).text(measure.digits) if known else "")
            if measure.ratio:
                ratio = self.ratio(scenario, peer, measure.key)
                texts.append(ratio.text(2) if ratio else "")
        return texts

    def aims(self, scenario: Scenario) -> list[str]:
        lines = (self.aim(scenario, aim) for aim in scenario.aims)
        return [line for line in lines if line]

    def aim(self, scenario: Scenario, aim: Aim) -> str | None:
        measure = next(measure for measure in scenario.measures if measure.key == aim.measure)
        if (scenario.name, US, aim.measure) not in self.values:
            return None
        if aim.of:
            ratio = self.ratio(scenario, aim.of, aim.measure)
            if not ratio:
                return None
            value, limit = ratio.median, f"{aim.most:.2f} of {name(aim.of)}"
            text = f"{value:.2f}"
        else:
            value, limit = self.cell(scenario, US, aim.measure).median, f"{aim.most:g} {measure.unit}"
            text = f"{value:.{measure.digits}f}"
        result = "met" if value <= aim.most else f"missed by {(value / aim.most - 1) * 100:.0f} %"
        return f"{measure.label}: at most {limit}; {text}: {result}"

    def others(self) -> Cell | None:
        """Share of the proxy's core that went to other programs."""
        shares = [value for (_, _, measure), rounds in self.values.items() if measure == "others" for value in rounds.values()]
        return cell(shares) if shares else None


def cell(values) -> Cell:
    values = list(values)
    return Cell(statistics.median(values), min(values), max(values))


def columns(measure: Measure) -> list[str]:
    unit = f", {measure.unit}" if measure.unit else ""
    return [f"{measure.label}{unit}", *(["Pillion / it"] if measure.ratio else [])]


def name(peer: str) -> str:
    return {"pillion": "Pillion", "haproxy": "HAProxy", "envoy": "Envoy", "relay": "TCP relay"}.get(peer, peer)
