"""What telemetry costs: CPU time a request at a fixed rate, with all of it off, with metrics and 1 % of the requests
traced, and with all of them traced, the export to a collector included.

    python benches/tracing --pillion BINARY --programs FOLDER [--out FILE] [--document]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compare"))

from machine import Cores, describe
from net import free_port, wait
from origin import Files
from process import Process
from proxies import Envoy, Pillion
from load import run as on_core

PAGE = HERE.parent.parent / "docs" / "tracing.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
CONNECTIONS = 64
#: A span of the request, and one of its attempt.
SPANS = 2
#: How much more than with all of it off a request may cost, percent.
AIMS = {"pillion, 1 %": 3, "pillion, 100 %": 25}


class Collector(Process):
    """Rotel, which takes spans and forgets them."""

    def __init__(self, directory: Path, core: int):
        import rotel

        self.grpc = f"127.0.0.1:{free_port()}"
        command = [str(Path(rotel.__file__).parent / "rotel-agent"), "start", "--otlp-grpc-endpoint", self.grpc,
                   "--otlp-http-endpoint", f"127.0.0.1:{free_port()}", "--exporter", "blackhole"]
        super().__init__(command, directory, (core,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pillion", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="the folder of openloop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rate", type=int, default=8000)
    parser.add_argument("--alone", action="store_true", help="Pillion without Envoy")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--document", action="store_true", help="put the figures into docs/tracing.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        rounds = measure(given, Path(directory), stack)
    report = summary(rounds)
    for name, row in report.items():
        print(f"{name:16} {row['cpu_us']:6.1f} us a request, {row['ratio']:.3f} of all off; p99 {row['p99']:.0f} us")
    if given.document:
        document(report, given)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        kept = {"machine": describe([]), "rate": given.rate, "seconds": given.seconds, "rounds": rounds, "summary": report}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")


def measure(given, directory: Path, stack: ExitStack) -> list[dict]:
    """Rounds, each with a turn of everybody; what disturbs one turn rarely disturbs the same one of the next round."""
    cores = Cores.choose()
    origin = stack.enter_context(Files(directory / "origin", cores.load))
    collector = stack.enter_context(Collector(directory / "collector", cores.load))
    pillion = str(given.pillion.resolve())
    made = [
        Pillion("pillion, off", pillion, {"metrics": {"enabled": False}}),
        Pillion("pillion, 1 %", pillion, {"tracing": {"sampling": "1%"}}),
        Pillion("pillion, 100 %", pillion, {"tracing": {"sampling": "100%"}}),
    ]
    if not given.alone:
        made += [Envoy("envoy, off", False), Envoy("envoy, 100 %", True)]
    proxies = [
        stack.enter_context(proxy.start(directory / f"proxy-{number}", cores.proxy, origin.address, collector.grpc))
        for number, proxy in enumerate(made)
    ]
    rounds = []
    for number in range(given.rounds + 1):
        turns = {proxy.name: turn(proxy, given, cores.load) for proxy in proxies}
        # The first one only warms up.
        if number:
            rounds.append(turns)
            print(f"round {number}: " + ", ".join(f"{name} {row['cpu_us']:.1f}" for name, row in turns.items()), file=sys.stderr)
    return rounds


def turn(proxy, given, core: int) -> dict[str, float]:
    exported, cpu = proxy.exported(), proxy.process.cpu()
    load = [str(given.programs / "openloop"), proxy.address, "/1k", str(given.rate), str(given.seconds), str(CONNECTIONS)]
    seen = json.loads(on_core(core, load))
    if proxy.sampled:
        settled(proxy, exported + SPANS * seen["requests"] if proxy.sampled == 1 else None)
    proxy.process.must_run()
    return {
        "cpu_us": (proxy.process.cpu() - cpu) / seen["requests"] * 1e6,
        "p50": seen["p50"], "p99": seen["p99"], "requests": seen["requests"],
    }


def settled(proxy, expected: int | None) -> None:
    """Waits until every span is with the collector; one that was dropped makes the turn worthless."""
    if expected is None:
        time.sleep(1.5)
    else:
        wait(proxy.process, "spans at the collector",
             lambda: None if proxy.exported() >= expected else f"{proxy.exported()} of {expected}")
    if dropped := proxy.dropped():
        raise RuntimeError(f"{proxy.name} dropped {dropped} spans")


def summary(rounds: list[dict]) -> dict:
    """Medians; the ratio is the median of the rounds' own."""

    def median(of) -> float:
        return statistics.median(of(turns) for turns in rounds)

    def row(name: str) -> dict:
        off = f"{name.split(',')[0]}, off"
        return {
            "cpu_us": median(lambda turns: turns[name]["cpu_us"]),
            "ratio": median(lambda turns: turns[name]["cpu_us"] / turns[off]["cpu_us"]),
            "p99": median(lambda turns: turns[name]["p99"]),
        }

    return {name: row(name) for name in rounds[0]}


def document(report: dict, given) -> None:
    lines = ["| telemetry | CPU a request | beside all off | p99 | aim |", "|---|--:|--:|--:|---|"]
    for name, row in report.items():
        aim = f"at most +{AIMS[name]} %" if name in AIMS else ""
        lines.append(f"| {name} | {row['cpu_us']:.1f} us | {(row['ratio'] - 1) * 100:+.1f} % | {row['p99']:.0f} us | {aim} |")
    lines.append("")
    lines.append(f"{given.rounds} rounds of {given.seconds:g} s, {given.rate} requests a second over {CONNECTIONS} connections.")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}")


main()
