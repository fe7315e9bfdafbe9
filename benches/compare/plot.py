"""Two pictures: `overview.png`, a panel a measure, and `targets.png`, how far each target is met."""

import os
from pathlib import Path

from summary import Summary, name

OURS, LIMIT, OTHER, MET = "#c2410c", "#a8a29e", "#475569", "#4d7c0f"
COLOURS = {"pillion": OURS, "two": OURS, "relay": LIMIT}
COLUMNS = 3


def draw(summary: Summary, directory: Path):
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot  # only here: measuring does without

    overview(pyplot, summary, directory / "overview.png")
    targets(pyplot, summary, directory / "targets.png")


def overview(pyplot, summary: Summary, path: Path):
    """A bar a peer, whiskers from the least to the greatest round."""
    panels = [
        (scenario, measure) for scenario in summary.scenarios for measure in scenario.measures
        if measure.ratio and len(summary.peers(scenario)) > 1 and summary.has(scenario, measure)]
    if not panels:
        return
    lines = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(lines, COLUMNS, figsize=(4 * COLUMNS, 2.4 * lines), squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    for axis, (scenario, measure) in zip(axes.flat, panels, strict=False):
        peers = summary.peers(scenario)
        cells = [summary.cell(scenario, peer, measure.key) for peer in peers]
        axis.barh(
            [name(peer) for peer in peers], [cell.median for cell in cells],
            xerr=[[cell.median - cell.least for cell in cells], [cell.greatest - cell.median for cell in cells]],
            color=[COLOURS.get(peer, OTHER) for peer in peers], ecolor="#78716c", capsize=2,
        )
        axis.invert_yaxis()
        axis.set_title(f"{scenario.name}: {measure.label}, {measure.unit}".removesuffix(", "), fontsize=9, loc="left")
        finish(axis)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def targets(pyplot, summary: Summary, path: Path):
    """What was measured over what it may be at most: left of the line is met."""
    bars = [
        (f"{scenario.name}: {verdict.measure.label}" + (f" / {' or '.join(map(name, verdict.target.of))}" if verdict.target.of else ""),
         verdict.value / verdict.target.most, verdict.met)
        for scenario in summary.scenarios for verdict in summary.verdicts(scenario) if verdict.target.most is not None]
    if not bars:
        return
    labels = [f"{label}  " for label, _, _ in bars]
    figure, axis = pyplot.subplots(figsize=(9, 0.6 + 0.3 * len(bars)))
    axis.barh(range(len(bars)), [share for _, share, _ in bars], color=[MET if met else OURS for _, _, met in bars])
    axis.set_yticks(range(len(bars)), labels)
    axis.axvline(1, color="black", linewidth=1)
    axis.invert_yaxis()
    axis.set_title("measured / target", fontsize=9, loc="left")
    finish(axis)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def finish(axis):
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
