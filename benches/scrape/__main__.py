"""What a scrape of 10,000 series takes, and whether the requests beside it notice: p99 with a scrape each
second and without, in turns, so that a machine that is busy with something else is so for both."""

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

#: Each has three series of its own, 19 of a histogram and one of a counter.
RULES = 430


def config(origin: str) -> dict:
    """Rules that answer by themselves make series; what is measured is proxied."""
    rules = [
        {
            "matches": [{"path": {"type": "Exact", "value": f"/fill/{number}"}}],
            "filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200}}],
        }
        for number in range(RULES)
    ]
    return {
        "admin": {"address": "127.0.0.1:0"},
        "accessLog": {"enabled": False},
        "metrics": {"maxSeries": 20_000},
        "listeners": [{"name": "web", "address": "127.0.0.1:0", "upstream": "app"}],
        "routes": [{"name": "fill", "rules": rules}],
        "upstreams": [{"name": "app", "endpoints": [origin]}],
    }


def start(command: list, **options) -> subprocess.Popen:
    return subprocess.Popen([str(part) for part in command], text=True, **options)


def get(url: str, accept: str = "text/plain") -> tuple[bytes, float]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    begin = time.perf_counter()
    with urllib.request.urlopen(request) as reply:
        body = reply.read()
    return body, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pillion", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(arguments, Path(directory))


def run(arguments, directory: Path) -> None:
    origin = start([arguments.programs / "origin", "127.0.0.1:19191"], stdout=subprocess.DEVNULL)
    path = directory / "pillion.json"
    path.write_text(json.dumps(config("127.0.0.1:19191")))
    pillion = start([arguments.pillion, "run", "--config", path], stderr=subprocess.PIPE,
                    env={"PILLION_LOG_FORMAT": "json"})
    try:
        ready = next(line for line in map(json.loads, pillion.stderr) if line.get("message") == "ready")
        threading.Thread(target=pillion.stderr.read, daemon=True).start()
        measure(arguments, ready["listeners"].split("=")[1], f"http://{ready['admin']}/metrics")
    finally:
        for process in (pillion, origin):
            process.kill()
            process.wait()


def measure(arguments, address: str, metrics: str) -> None:
    for number in range(RULES):
        get(f"http://{address}/fill/{number}")
    for accept in ("text/plain", "application/openmetrics-text"):
        bodies = [get(metrics, accept) for _ in range(50)]
        series = sum(1 for line in bodies[0][0].splitlines() if not line.startswith(b"#"))
        times = sorted(took for _, took in bodies)
        print(f"{accept}: {series} series, {len(bodies[0][0])} bytes, median {statistics.median(times) * 1e3:.1f} ms, "
              f"longest {times[-1] * 1e3:.1f} ms")
    p99 = {True: [], False: []}
    for turn in range(2 * arguments.rounds):
        scraped = turn % 2 == 1
        over = threading.Event()
        scraper = threading.Thread(target=scrape, args=(metrics, over))
        if scraped:
            scraper.start()
        load = [arguments.programs / "openloop", address, "/", arguments.rate, arguments.seconds, 32]
        done = subprocess.run([str(part) for part in load], check=True, capture_output=True, text=True)
        over.set()
        if scraped:
            scraper.join()
        p99[scraped].append(json.loads(done.stdout))
    for scraped, reports in p99.items():
        said = "a scrape each second" if scraped else "no scrape"
        for name in ("p50", "p99"):
            values = [report[name] for report in reports]
            print(f"{said}: {name} median {statistics.median(values):.0f} us, rounds {[round(value) for value in values]}")


def scrape(metrics: str, over: threading.Event) -> None:
    while not over.wait(1):
        get(metrics)


main()
