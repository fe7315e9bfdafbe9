"""One picture: a panel a measure, a bar a peer, whiskers from the least to the greatest round."""

import os
from pathlib import Path

from summary import Summary, name

COLOURS = {"pillion": "#c2410c", "two": "#c2410c", "relay": "#a8a29e"}
OTHER = "#475569"
COLUMNS = 3


def draw(summary: Summary, path: Path):
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot  # only here: measuring does without

    panels = [(scenario, measure) for scenario in summary.scenarios for measure in scenario.measures if measure.ratio]
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
        axis.set_title(f"{scenario.name}: {measure.label}{measure.unit and ', '}{measure.unit}", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
