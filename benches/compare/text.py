"""The tables as text: for the terminal, and as the generated section of `docs/performance.md`."""

from pathlib import Path

from summary import Summary, name

BEGIN, END = "<!-- bench: begin, made by `make bench-docs` -->", "<!-- bench: end -->"


def terminal(run: dict, summary: Summary) -> str:
    parts = [machine(run, summary)]
    for scenario in summary.scenarios:
        rows = summary.rows(scenario)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        parts.append("\n".join([f"{scenario.name}: {scenario.title}", *table]))
    return "\n\n".join([*parts, "\n".join(targets(summary))])


def markdown(run: dict, summary: Summary, directory: str) -> str:
    first, *verdicts = targets(summary)
    parts = [machine(run, summary) + f" Raw data and plots: `{directory}`.", f"### {first}", "\n".join(f"- {line}" for line in verdicts)]
    for scenario in summary.scenarios:
        head, *rows = summary.rows(scenario)
        table = [row_of(head), row_of(["---", *["---:"] * (len(head) - 1)]), *map(row_of, rows)]
        parts += [f"### `{scenario.name}`: {scenario.title}", "\n".join(table)]
    return "\n\n".join([*parts, *(f"![{plot}](../{directory}/{plot}.png)" for plot in ("targets", "overview"))])


def targets(summary: Summary) -> list[str]:
    """A line that counts them, then one for each."""
    verdicts = [(scenario, verdict) for scenario in summary.scenarios for verdict in summary.verdicts(scenario)]
    results = [verdict.met for _, verdict in verdicts if verdict.met is not None]
    return [
        f"Targets: {sum(results)} of {len(results)} met",
        *(f"{scenario.name}: {verdict.text()}" for scenario, verdict in verdicts),
    ]


def machine(run: dict, summary: Summary) -> str:
    versions = ", ".join(f"{name(peer)} {number}" for peer, number in run["versions"].items())
    others = summary.others()
    shared = "" if others is None else (
        f" Other programs took {others.median:.0%} of the proxy's core (median of all turns; at most {others.greatest:.0%}).")
    return (
        f"{run['date']}: {run['cores']} cores of {run['cpu']}, {run['memory_gb']} GB, Linux {run['kernel']}; {versions}. "
        f"{run['rounds']} rounds of {run['seconds']:g} s; median (least-greatest).{shared}")


def document(page: Path, section: str) -> str:
    """The page's text with the section exchanged."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{page} lacks {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
