"""The text format of `GET /metrics`, read."""

import re
from dataclasses import dataclass

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*?)\})? (\S+)(?: .*)?$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass
class Metrics:
    """Every sample as (name, labels, value)."""

    samples: list[tuple[str, dict[str, str], float]]

    @classmethod
    def parse(cls, text: str) -> "Metrics":
        samples = []
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            labels = dict(LABEL.findall(match[2] or ""))
            samples.append((match[1], labels, float(match[3])))
        return cls(samples)

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that carry these labels; 0 when there are none."""
        return sum(value for sample, have, value in self.samples if sample == name and labels.items() <= have.items())

    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}

    def reasons(self) -> dict[str, float]:
        """How often each reason was counted, over whatever counters carry that label. Endpoints count
        attempts, which may have been made good."""
        totals: dict[str, float] = {}
        for name, labels, value in self.samples:
            if "reason" in labels and name.endswith("_total") and "endpoint" not in labels:
                totals[labels["reason"]] = totals.get(labels["reason"], 0) + value
        return totals
