"""How Pillion and Envoy bear endpoints that fail, side by side.

    python benches/resilience --pillion BINARY [--out FILE] [SCENARIO...]
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from client import Client
from peers import Envoy, Pillion, running
from scenarios import ALL, Figure, Scenario, World, application


PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "resilience.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


async def measure(scenario: Scenario, peer: Pillion | Envoy, directory: Path) -> list[Figure]:
    async with application(*scenario.behaviours) as (endpoints, ledger):
        with running(peer, directory, [endpoint.port for endpoint in endpoints], scenario.name) as port:
            client = Client(port)
            try:
                return await scenario.run(World(endpoints, ledger, client))
            finally:
                client.close()


def document(results: dict) -> None:
    """Puts the figures between their marks in the page that tells of them."""
    peers = list(results["versions"])
    lines = [f"| scenario | what | {' | '.join(f'{name} {version}' for name, version in results['versions'].items())} | aim |"]
    lines.append("|---|---|" + "--:|" * len(peers) + "---|")
    for scenario, rows in results["scenarios"].items():
        for what, row in rows.items():
            cells = " | ".join(f"{row[peer]} {row['unit']}".strip() for peer in peers)
            lines.append(f"| `{scenario}` | {what} | {cells} | {row['target']} |")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pillion", required=True, help="the binary")
    arguments.add_argument("--out", type=Path, help="where the figures go, as JSON")
    arguments.add_argument("--document", action="store_true", help="put the figures into docs/resilience.md")
    arguments.add_argument("--alone", action="store_true", help="Pillion without Envoy")
    arguments.add_argument("scenarios", nargs="*", help="all unless named")
    given = arguments.parse_args()
    peers = [Pillion(str(Path(given.pillion).resolve())), *([] if given.alone else [Envoy()])]
    chosen = [scenario for scenario in ALL if not given.scenarios or scenario.name in given.scenarios]
    results: dict = {"versions": {peer.name: peer.version() for peer in peers}, "scenarios": {}}
    with tempfile.TemporaryDirectory() as directory:
        for scenario in chosen:
            print(scenario.name, file=sys.stderr)
            rows: dict = {}
            for peer in peers:
                for figure in asyncio.run(measure(scenario, peer, Path(directory) / scenario.name / peer.name)):
                    row = rows.setdefault(figure.what, {"unit": figure.unit, "target": figure.target})
                    row[peer.name] = round(figure.value, 2)
            results["scenarios"][scenario.name] = rows
            for what, row in rows.items():
                told = ", ".join(f"{peer.name} {row[peer.name]}{row['unit']}" for peer in peers)
                print(f"  {what}: {told}  {row['target']}", flush=True)
    if given.document:
        document(results)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")


main()
