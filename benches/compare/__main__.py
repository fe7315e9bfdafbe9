"""Pillion beside nginx, HAProxy, Envoy and a plain TCP relay, in one interleaved run.

    python benches/compare run --pillion BIN --programs DIR --out DIR    measures, prints, keeps
    python benches/compare show DIR                                      prints a kept set
    python benches/compare plot DIR                                      draws it, with matplotlib
    python benches/compare document DIR [--check]                        puts it into docs/performance.md

BENCH_ROUNDS, BENCH_SECONDS and BENCH_SCENARIOS=a,b stand for the options.
"""

import argparse
import datetime
import os
import sys
from pathlib import Path

import results
import text
from machine import describe
from peer import ROOT, peers
from plot import draw
from rounds import run
from scenario import Scenario
from scenarios import SCENARIOS
from summary import Summary

# Whoever else is left out.
OURS = ("pillion", "two", "one")
PAGE = ROOT / "docs" / "performance.md"


def main() -> int:
    options = arguments()
    try:
        return {"run": measure, "show": show, "plot": plot, "document": document}[options.command](options)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("--pillion", type=Path, required=True, help="the binary, of a release build")
    measuring.add_argument("--programs", type=Path, required=True, help="where the examples are: relay, origin, openloop, handshakes, scale")
    measuring.add_argument("--out", type=Path, required=True, help="where the results go")
    measuring.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS", 5)))
    measuring.add_argument("--seconds", type=float, default=float(os.environ.get("BENCH_SECONDS", 3)), help="of load, each turn")
    measuring.add_argument("--scenarios", default=os.environ.get("BENCH_SCENARIOS", ""), help="names with commas between; default: all")
    measuring.add_argument("--peer", action="append", help="default: all; Pillion always takes part")
    for command in ("show", "plot"):
        commands.add_parser(command).add_argument("set", type=Path)
    documenting = commands.add_parser("document")
    documenting.add_argument("set", type=Path)
    documenting.add_argument("--check", action="store_true", help="only fail where the page differs")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> int:
    everybody = peers(options.pillion.resolve(), options.programs.resolve())
    chosen = {name: peer for name, peer in everybody.items() if not options.peer or name in (*OURS, *options.peer)}
    where = {
        "date": datetime.date.today().isoformat(), **describe(list(chosen.values())),
        "rounds": options.rounds, "seconds": options.seconds,
    }
    run(
        choose(options.scenarios), chosen, options.pillion.resolve(), options.programs.resolve(), options.rounds, options.seconds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        keep=lambda samples: results.write(options.out, where, samples))
    return show(argparse.Namespace(set=options.out))


def choose(names: str) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if not names:
        return SCENARIOS
    for name in names.split(","):
        if name not in known:
            raise RuntimeError(f"no scenario {name!r}; there are {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if scenario.name in names.split(",")]


def show(options: argparse.Namespace) -> int:
    where, samples = results.read(options.set)
    print(text.terminal(where, Summary(samples)))
    return 0


def plot(options: argparse.Namespace) -> int:
    draw(Summary(results.read(options.set)[1]), options.set)
    return 0


def document(options: argparse.Namespace) -> int:
    where, samples = results.read(options.set)
    section = text.markdown(where, Summary(samples), os.path.relpath(options.set.resolve(), ROOT))
    page = text.document(PAGE, section)
    if options.check:
        return int(page != PAGE.read_text())
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
