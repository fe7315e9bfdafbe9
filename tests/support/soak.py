"""What every soak shares: its length, the account of what was asked, and what must hold at rest."""

import collections
import os
import time
from pathlib import Path

from .process import Pillion
from .wait import eventually

MIB = 1 << 20


def seconds(long: float) -> float:
    """How long a soak runs; `SOAK_SECONDS` decides for the long ones."""
    return float(os.environ.get("SOAK_SECONDS", long))


def seed() -> int:
    """`SOAK_SEED` repeats a run, as far as the scheduler lets it."""
    chosen = int(os.environ.get("SOAK_SEED", time.time_ns() % 1_000_000))
    print(f"SOAK_SEED={chosen}")
    return chosen


def body_of(number: int, size: int) -> bytes:
    """The one right answer to request `number`: no two neighbours have the same one."""
    stamp = f"{number:08x}.".encode()
    return (stamp * (size // len(stamp) + 1))[:size]


class Ledger:
    """Every request that was made and what became of it, from the outside."""

    def __init__(self):
        self.asked = 0
        #: Number to what the client saw: `ok`, a reason, `broken`, `tunnel` or `left` (by the client itself).
        self.ended: dict[int, str] = {}
        #: Whatever must never happen.
        self.wrong: list[str] = []

    def ask(self) -> int:
        self.asked += 1
        return self.asked

    def end(self, number: int, outcome: str):
        assert number not in self.ended, number
        self.ended[number] = outcome

    def blame(self, what: str):
        if len(self.wrong) < 50:
            self.wrong.append(what)

    def outcomes(self) -> dict[str, int]:
        return dict(collections.Counter(self.ended.values()).most_common())


class Memory:
    """Resident memory, sampled over a soak."""

    def __init__(self, proxy: Pillion):
        self.proxy, self.samples = proxy, []

    def sample(self):
        self.samples.append(self.proxy.rss())

    def thirds(self) -> list[int]:
        """The largest of each third."""
        size = max(1, len(self.samples) // 3)
        return [max(self.samples[at : at + size]) for at in (0, size, len(self.samples) - size)]

    def is_steady(self, slack: int = 8 * MIB):
        """What a soak needs it needs by its second third: growth after that is a leak."""
        first, second, last = self.thirds()
        print(f"memory, by thirds of the soak: {first / MIB:.1f}, {second / MIB:.1f}, {last / MIB:.1f} MiB")
        assert last <= second * 1.25 + slack, f"memory grows: {[value // MIB for value in self.thirds()]} MiB"


#: Gauges of what runs now.
RUNNING = ["pillion_listener_connections_active", "http_server_active_requests", "pillion_upstream_requests_active",
           "pillion_upstream_requests_pending"]
#: Gauges of what may rest in a pool.
POOLED = ["pillion_upstream_connections_active", "pillion_upstream_connections_idle"]


#: Ends of the pipes that two workers keep for large bodies, eight each, and of the runtime's own.
SPARE_PIPES = 2 * 8 * 2 + 8


def limits_used(proxy: Pillion) -> dict[str, dict[str, int]]:
    """Upstream to what is held of each of its limits."""
    told = proxy.admin_get("/upstreams").json()
    told = told["upstreams"] if isinstance(told, dict) else told
    return {upstream["name"]: {limit: row["used"] for limit, row in upstream["limits"].items() if row}
            | {"active": sum(endpoint["active"] for endpoint in upstream["endpoints"])} for upstream in told}


def at_rest(proxy: Pillion, behind: str = ""):
    """Nothing runs; what is held of an upstream are its idle connections.

    `behind` is a listener whose connections come from the proxy itself, and rest in its own pools.
    """

    def still():
        metrics = proxy.metrics()
        levels = {name: metrics.value(name) for name in RUNNING}
        levels[RUNNING[0]] -= metrics.value(RUNNING[0], listener=behind)
        assert not any(levels.values()), levels
        used = limits_used(proxy)
        for upstream, row in used.items():
            idle = metrics.value("pillion_upstream_connections_idle", upstream=upstream)
            held = metrics.value("pillion_upstream_connections_active", upstream=upstream)
            assert row["connections"] == held, (upstream, row, held)
            assert not (row["pending"] or row["requests"] or row["active"]), (upstream, row)
            # Those over HTTP/2 rest where they are.
            assert idle in (0, held), (upstream, idle, held)
        return True

    eventually(still, "nothing runs any more")


def descriptors_at_first(proxy: Pillion) -> int:
    """Open descriptors of a proxy that has just become ready, once its workers have as well."""
    before = -1
    while (now := proxy.descriptors()) != before:
        before = now
        time.sleep(0.3)
    return now


def empty(proxy: Pillion, descriptors: int, slack: int = 2):
    """Not a connection is left, nor a descriptor beyond those there were at first; `slack` is for
    the connections by which this is asked."""

    def gone():
        metrics = proxy.metrics()
        levels = {name: metrics.value(name) for name in RUNNING + POOLED}
        assert not any(levels.values()), levels
        held = {upstream: row for upstream, row in limits_used(proxy).items() if any(row.values())}
        assert not held, held
        open_now = kinds(proxy)
        pipes = open_now.pop("pipe", 0)
        assert sum(open_now.values()) <= descriptors + slack, f"{open_now}, {descriptors} in all at first"
        assert pipes <= SPARE_PIPES, f"{pipes} ends of pipes"
        return True

    eventually(gone, "every connection gone")


def kinds(proxy: Pillion) -> dict[str, int]:
    """Open descriptors by what they are."""
    found = collections.Counter()
    for link in Path(f"/proc/{proxy.pid}/fd").iterdir():
        try:
            found[os.readlink(link).split("[")[0].split(":")[0]] += 1
        except OSError:
            continue
    return dict(found)


def number_of(line: dict) -> int | None:
    """The request's number, which its path ends with."""
    last = (line.get("path") or "").partition("?")[0].rpartition("/")[2]
    return int(last) if last.isdigit() else None


def connection_of(told: list[dict], lines: list[dict]) -> str:
    """What else the log has of the connections that these lines came by."""
    peers = {line["peer"] for line in told}
    return "\n".join(f"  {line['peer']} {line['start_time']} {line['path']} {line['status']} {line['reason']} {line['detail']}"
                     for line in lines if line["peer"] in peers)


def accounts_agree(proxy: Pillion, ledger: Ledger, listener: str = "web", passing: tuple[str, ...] = ()):
    """The client's account, the access log and the counters tell the same.

    Of the routes and listeners in `passing`, which came and went, each stay was counted anew.
    """

    def complete():
        metrics = proxy.metrics()
        assert metrics.value("pillion_access_log_dropped_total") == 0
        opaque = collections.Counter((line["listener"], line["reason"]) for line in proxy.access_log()
                                     if line["protocol"] == "TCP")
        lines = [line for line in proxy.access_log() if line["protocol"] != "TCP"]
        routed = collections.Counter(line["route"] for line in lines if line.get("route"))
        failed = collections.Counter((line["route"], line["reason"]) for line in lines
                                     if line.get("route") and line.get("reason"))
        refused = collections.Counter((line["listener"], line["reason"]) for line in lines if not line.get("route"))
        for name, labels, value in metrics.samples:
            if {labels.get("route"), labels.get("listener")} & set(passing):
                continue
            if name == "pillion_http_requests_failed_total":
                key = (labels["route"], labels["reason"])
                assert failed[key] == value, f"{key}: {failed[key]} lines, counted {value}"
            if name == "pillion_listener_connections_failed_total":
                key = (labels["listener"], labels["reason"])
                assert opaque[key] == value, f"{key}: {opaque[key]} lines, counted {value}"
            if name == "pillion_listener_heads_refused_total":
                key = (labels["listener"], labels["reason"])
                assert refused[key] == value, f"{key}: {refused[key]} lines, counted {value}"
        for route in {labels["route"] for _, labels, _ in metrics.samples if "route" in labels} - set(passing):
            done = metrics.value("pillion_http_requests_total", route=route)
            assert routed[route] == done, f"{route}: {routed[route]} lines, counted {done}"
        # The client may have its answer a moment before it is counted and logged.
        told = {number_of(line) for line in lines if line["listener"] == listener}
        waiting = [number for number, outcome in ledger.ended.items() if outcome != "left" and number not in told]
        assert not waiting, f"no line yet for {waiting[:5]}"
        return lines

    lines = eventually(complete, "log and counters agree")
    by_number: dict[int, list[dict]] = collections.defaultdict(list)
    for line in lines:
        if line["listener"] == listener and (number := number_of(line)) is not None:
            by_number[number].append(line)
    for number, outcome in ledger.ended.items():
        told = by_number.get(number, [])
        if outcome == "left":
            good = len(told) <= 1
        elif outcome == "tunnel":
            good = len(told) == 1
        elif outcome == "broken":
            good = len(told) == 1 and told[0]["reason"]
        elif outcome == "ok":
            good = len(told) == 1 and not told[0]["reason"]
        else:
            good = len(told) == 1 and told[0]["reason"] == outcome
        if not good:
            ledger.blame(f"request {number} ended {outcome!r} for the client, and in the log: {told}\n"
                         + connection_of(told, lines))
    assert not ledger.wrong, "\n".join(ledger.wrong)
    unknown = set(by_number) - set(ledger.ended)
    assert not unknown, f"lines of requests that were never made: {sorted(unknown)[:10]}"
