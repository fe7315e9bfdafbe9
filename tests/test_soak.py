"""Everything at once, for long: what must hold after any traffic, however it went.

Each soak has a short form that every run of the tests makes, and a long one (`make test-long`,
`SOAK_SECONDS`). What a soak did is printed, with the seed that does it again (`SOAK_SEED`).
"""

import asyncio
import contextlib
import random
import resource
import signal
import socket
import time

import pytest
from support.client import fetch
from support.config import http_config
from support.ports import free_port
from support.process import Pillion
from support.soak import MIB, Ledger, Memory, accounts_agree, at_rest, descriptors_at_first, empty, limits_used, seconds, seed
from support.soak_clients import Asked, Http1, dial, http1, knocks, tcp, websocket
from support.soak_h2 import Churn, http2
from support.soak_upstream import ChaosUpstream, EchoServer
from support.wait import eventually

#: A soak waits for its own clients; the runner only for a soak that hangs.
LONG = [pytest.mark.long, pytest.mark.timeout(900)]
#: Nothing listens there.
NOWHERE = "127.0.0.1:9"


def forms(short: float, long: float):
    """The short form of a soak and the long one, as a parameter: how many seconds, or of what."""
    return [pytest.param(short, id="short", marks=pytest.mark.timeout(180)), pytest.param(long, id="long", marks=LONG)]


class Scene:
    """The configuration of the chaos, which is never the same for long."""

    def __init__(self, rng: random.Random, apps: list[ChaosUpstream], other: ChaosUpstream, echo: EchoServer, directory):
        self.rng, self.apps, self.other, self.echo = rng, apps, other, echo
        self.inner, self.socket = free_port(), directory / "extra.sock"

    @property
    def extra(self) -> str:
        return f"unix:{self.socket}"

    def config(self, steady: bool = False) -> dict:
        """Another configuration each time; `steady`: the one to begin and to compare with."""
        rng = random.Random(0) if steady else self.rng
        endpoints = [app.address for app in rng.sample(self.apps, len(self.apps) if steady else rng.randint(1, len(self.apps)))]
        app = {"name": "app", "endpoints": endpoints, "timeouts": {"connect": "500ms"}}
        if not steady:
            app["balancer"] = rng.choice(["peakEwma", "leastRequest", "roundRobin"])
            app["maxConnectionAge"] = rng.choice(["1h", "1s"])
            app["limits"] = {"connections": rng.choice([3, 30, 10000]), "pending": rng.choice([5, 10000])}
        return self.assemble(app, self.other.address, f"127.0.0.1:{self.inner}", self.echo.address,
                             extra=not steady and rng.random() < 0.5)

    def deserted(self) -> dict:
        """The same without an endpoint that anybody could still hold a connection to."""
        return self.assemble({"name": "app", "endpoints": [NOWHERE]}, NOWHERE, NOWHERE, NOWHERE)

    def assemble(self, app, other, inner, echo, extra=False) -> dict:
        timeouts = {"request": "3s", "idle": "3s"}

        def rule(prefix, backends, listeners=None, name=None, **more):
            name = name or prefix[1:]
            only = {"listeners": listeners} if listeners else {}
            return {"name": name, **only, "rules": [{"name": name, "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
                    "backendRefs": backends, "timeouts": timeouts, **more}]}

        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "other"}, "percent": 50}}
        share = self.rng.randint(1, 99)
        routes = [
            rule("/app", [{"name": "app"}]),
            rule("/inner", [{"name": "inner"}], listeners=["web"]),
            rule("/inner", [{"name": "app"}], listeners=["inner"], name="behind"),
            rule("/mirror", [{"name": "app"}], filters=[mirror]),
            rule("/moving", [{"name": "app", "weight": share}, {"name": "other", "weight": 100 - share}]),
        ]
        if self.rng.random() < 0.5:
            routes.append(rule("/fleeting", [{"name": "other"}]))
        listeners = [
            {"name": "web", "address": "127.0.0.1:0"},
            {"name": "inner", "address": f"127.0.0.1:{self.inner}"},
            {"name": "tcp", "address": "127.0.0.1:0", "protocol": "tcp", "upstream": "echo"},
        ]
        if extra:
            listeners.append({"name": "extra", "address": self.extra})
        return {
            "listeners": listeners,
            "routes": routes,
            "upstreams": [
                app,
                {"name": "other", "endpoints": [other]},
                {"name": "inner", "endpoints": [inner], "protocol": "http2"},
                {"name": "echo", "endpoints": [echo]},
            ],
            "drain": {"deadline": "1s"},
        }


BROKEN = ["listeners: 7", "listeners: []\nupstreams: nothing\n", "routes:\n  - rules: [{ backendRefs: [{ name: gone }] }]\n"]


class Chaos:
    """Everybody at once, until the time is over."""

    def __init__(self, proxy: Pillion, scene: Scene, ledger: Ledger, rng: random.Random, duration: float):
        self.proxy, self.scene, self.ledger, self.rng = proxy, scene, ledger, rng
        self.aside = Ledger()  # of a listener that comes and goes, where nobody counts lines
        self.end = time.monotonic() + duration
        self.memory = Memory(proxy)
        self.reloads = self.refused = self.deaths = 0

    async def run(self):
        prefixes = ["/app", "/app", "/inner", "/mirror", "/moving", "/fleeting"]
        web, opaque = self.proxy.address("web"), self.proxy.address("tcp")
        ledger, rng = self.ledger, self.rng
        async with asyncio.TaskGroup() as group:
            def lanes(count, life):
                for _ in range(count):
                    group.create_task(self.lane(life))

            lanes(10, lambda: http1(ledger, rng, web, prefixes))
            lanes(3, lambda: http2(ledger, rng, web, prefixes))
            lanes(2, lambda: websocket(ledger, rng, web, rng.choice(prefixes)))
            lanes(2, lambda: tcp(ledger, rng, opaque))
            lanes(1, lambda: knocks(rng, rng.choice([web, opaque])))
            lanes(1, self.at_the_side)
            lanes(1, self.murder)
            lanes(1, self.reload)
            lanes(1, self.watch)

    async def lane(self, life):
        while time.monotonic() < self.end:
            await life()

    async def at_the_side(self):
        with contextlib.suppress(OSError, AssertionError):
            await http1(self.aside, self.rng, self.scene.extra, ["/app", "/moving"])
        await asyncio.sleep(0.02)

    async def murder(self):
        await asyncio.sleep(self.rng.uniform(0.1, 1))
        victim = self.rng.choice([*self.scene.apps, self.scene.other])
        await victim.kill()
        await asyncio.sleep(self.rng.choice([0, 0.05, 0.5]))
        await victim.start()
        self.deaths += 1

    async def reload(self):
        await asyncio.sleep(self.rng.uniform(0, 0.4))
        how = self.rng.random()
        if how < 0.15:
            answer = await asyncio.to_thread(self.proxy.reload, self.rng.choice(BROKEN))
            assert answer.status == 422, answer
            self.refused += 1
            return
        config = self.scene.config()
        if how < 0.5:
            self.proxy.write(config)
        elif how < 0.6:
            self.proxy.write(config)
            self.proxy.signal(signal.SIGHUP)
        else:
            answer = await asyncio.to_thread(self.proxy.reload, config)
            assert answer.status == 200, answer.body
        self.reloads += 1

    async def watch(self):
        assert self.proxy.process.poll() is None, "pillion is gone"
        self.memory.sample()
        # A scrape must do no harm, whenever it comes.
        await asyncio.to_thread(self.proxy.metrics)
        await asyncio.sleep(0.3)


async def play(start, duration: float, rng: random.Random, tmp_path):
    ledger = Ledger()
    apps = [await ChaosUpstream(ledger, rng).start() for _ in range(4)]
    other, echo = await ChaosUpstream(ledger, rng).start(), await EchoServer().start()
    scene = Scene(rng, apps, other, echo, tmp_path)
    proxy = start(scene.config(steady=True))
    descriptors = await asyncio.to_thread(descriptors_at_first, proxy)
    chaos = Chaos(proxy, scene, ledger, rng, duration)
    await chaos.run()
    print(f"{ledger.asked} requests, {chaos.aside.asked} aside; {chaos.reloads} reloads, {chaos.refused} refused, "
          f"{chaos.deaths} deaths of endpoints\n{ledger.outcomes()}")
    assert not ledger.wrong, "\n".join(ledger.wrong)
    await asyncio.to_thread(proxy.must_reload, scene.config(steady=True))
    await asyncio.to_thread(at_rest, proxy, "inner")
    await asyncio.to_thread(proxy.must_reload, scene.deserted())
    await asyncio.to_thread(empty, proxy, descriptors)
    await asyncio.to_thread(accounts_agree, proxy, ledger, "web", ("fleeting", "extra"))
    assert not chaos.aside.wrong, "\n".join(chaos.aside.wrong)
    # A tunnel that came about is neither an answer nor a failure; how many there are depends on the seed.
    outcomes = ledger.outcomes()
    assert outcomes.get("ok", 0) > (ledger.asked - outcomes.get("tunnel", 0)) / 5, "the chaos was no traffic"
    chaos.memory.is_steady()


@pytest.mark.parametrize("duration", forms(6, 180))
def test_chaos(pillion, tmp_path, short_dir, duration):
    """All protocols, clients that leave, upstreams that die, and reloads without end."""
    if duration > 10:
        duration = seconds(duration)
    asyncio.run(play(pillion, duration, random.Random(seed()), short_dir))


def plainly(ledger: Ledger, rng: random.Random) -> Asked:
    """A request for something small that every upstream gives."""
    asked = Asked(ledger, rng, ["/app"])
    asked.habit, asked.size, asked.upload = "plain", rng.choice([10, 5000]), b""
    asked.path = f"/app/{asked.number}?do=plain&size={asked.size}"
    return asked


class Crowd:
    """Clients that want one small thing each, of an upstream that serves two at a time."""

    def __init__(self, address: str, ledger: Ledger, rng: random.Random):
        self.address, self.ledger, self.rng = address, ledger, rng
        self.waits: list[float] = []
        self.served = [0] * 64

    async def run(self, duration: float):
        end = time.monotonic() + duration
        await asyncio.gather(*(self.client(index, end) for index in range(len(self.served))))

    async def client(self, index: int, end: float):
        while time.monotonic() < end:
            reader, writer = await dial(self.address)
            http = Http1(self.ledger, self.rng, reader, writer)
            alive = True
            while alive and time.monotonic() < end:
                asked = plainly(self.ledger, self.rng)
                began = time.monotonic()
                if self.rng.random() < 0.2:
                    writer.write(http.head(asked))
                    await asyncio.sleep(self.rng.choice([0, 0.001, 0.01, 0.1]))
                    alive = await http.leave(asked)
                else:
                    writer.write(http.head(asked))
                    alive = await http.answer(asked)
                    self.waits.append(time.monotonic() - began)
                    self.served[index] += self.ledger.ended[asked.number] == "ok"
            writer.close()


@pytest.mark.parametrize("duration", forms(5, 120))
def test_a_crowd_before_two_connections(pillion, duration):
    """Nobody loses a place, nobody is forgotten: neither on another worker nor of another endpoint."""
    duration = seconds(duration) if duration > 10 else duration
    rng, ledger = random.Random(seed()), Ledger()

    async def play():
        apps = [await ChaosUpstream(ledger, rng, calm=calm).start() for calm in (True, False)]
        limits = {"limits": {"connections": 2, "pending": 100}}
        proxy = pillion(http_config(*(app.address for app in apps), upstream=limits))
        descriptors = await asyncio.to_thread(descriptors_at_first, proxy)
        crowd = Crowd(proxy.address(), ledger, rng)
        await crowd.run(duration)
        waits = sorted(crowd.waits)
        print(f"{len(waits)} served, {ledger.outcomes()}; half waited {waits[len(waits) // 2] * 1e3:.0f} ms, the longest "
              f"{waits[-1] * 1e3:.0f} ms; by client {min(crowd.served)} to {max(crowd.served)}")
        assert set(ledger.outcomes()) <= {"ok", "left", "upstream_closed", "upstream_reset"}, ledger.outcomes()
        assert min(crowd.served) > 0, crowd.served
        await asyncio.to_thread(at_rest, proxy)
        assert limits_used(proxy)["app"]["connections"] <= 2
        await asyncio.to_thread(proxy.must_reload, http_config(NOWHERE, upstream=limits))
        await asyncio.to_thread(empty, proxy, descriptors)
        await asyncio.to_thread(accounts_agree, proxy, ledger)

    asyncio.run(play())


def many_routes(count: int, turn: int, *upstreams: str) -> dict:
    """So many routes before the one in use; each turn all of them are others."""
    routes = [{"name": f"route-{index}", "hostnames": [f"host-{index % 97}.test"], "rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": f"/turn-{turn}/{index}"}}],
        "backendRefs": [{"name": "app"}]}]} for index in range(count)]
    return http_config(*upstreams, routes=[*routes, {"name": "app", "rules": [{"backendRefs": [{"name": "app"}]}]}])


@pytest.mark.parametrize("reloads", forms(15, 150))
def test_a_storm_of_reloads_with_many_routes(pillion, reloads):
    """2,000 routes replaced again and again under load: no request fails, and the memory comes back."""
    rng, ledger = random.Random(seed()), Ledger()

    async def play():
        app = await ChaosUpstream(ledger, rng, calm=True).start()
        configs = [many_routes(2000, turn, app.address) for turn in range(3)]
        proxy = pillion(configs[0])
        memory = Memory(proxy)
        over = False

        async def storm(turns: int):
            for turn in range(turns):
                await asyncio.to_thread(proxy.must_reload, configs[turn % len(configs)])
                memory.sample()

        async def load():
            while not over:
                reader, writer = await dial(proxy.address())
                http = Http1(ledger, rng, reader, writer)
                for _ in range(50):
                    asked = plainly(ledger, rng)
                    writer.write(http.head(asked))
                    if not await http.answer(asked):
                        break
                writer.close()

        loads = [asyncio.create_task(load()) for _ in range(4)]
        # What a reload takes for itself, once, is not a leak.
        await storm(3)
        before = proxy.rss()
        await storm(int(reloads))
        over = True
        await asyncio.gather(*loads)

        def returned():
            now = proxy.rss()
            assert now <= before * 1.3, f"{now / MIB:.1f} MiB after the storm, {before / MIB:.1f} before"
            return now

        after = await asyncio.to_thread(eventually, returned, "the memory given back")
        print(f"{ledger.outcomes()}; memory {before / MIB:.1f} MiB before, {max(memory.samples) / MIB:.1f} at most, "
              f"{after / MIB:.1f} after {int(reloads)} reloads")
        assert set(ledger.outcomes()) == {"ok"}, ledger.outcomes()
        memory.is_steady()
        await asyncio.to_thread(at_rest, proxy)

    asyncio.run(play())


@pytest.mark.parametrize("total", forms(4_000, 100_000))
def test_churn_of_streams(pillion, total):
    """Streams that come and go, many of them reset, in every phase: nothing of them stays."""
    rng, ledger = random.Random(seed()), Ledger()

    async def play():
        app = await ChaosUpstream(ledger, rng).start()
        proxy = pillion(http_config(app.address))
        descriptors = await asyncio.to_thread(descriptors_at_first, proxy)
        memory, share = Memory(proxy), int(total) // 12
        churns = [Churn(rng) for _ in range(4)]
        for _ in range(3):
            await asyncio.gather(*(churn.run(proxy.address(), churn.opened + share) for churn in churns))
            memory.sample()
        opened, resets, refused, whole = (sum(getattr(churn, name) for churn in churns)
                                          for name in ("opened", "resets", "refused", "whole"))
        print(f"{opened} streams: {whole} to their end, {resets} reset by the client, {refused} by Pillion")
        assert whole > opened / 2
        assert not ledger.wrong, ledger.wrong
        await asyncio.to_thread(at_rest, proxy)
        await asyncio.to_thread(proxy.must_reload, http_config(NOWHERE))
        await asyncio.to_thread(empty, proxy, descriptors)
        await asyncio.to_thread(accounts_agree, proxy, Ledger(), "none")
        memory.is_steady()

    asyncio.run(play())


@pytest.mark.parametrize("count", forms(500, 9_000))
def test_a_burst_of_idle_connections(pillion, count):
    """Connections that do nothing, all at once: what they took is given back."""
    count = int(count)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > count + 500, f"at most {hard} descriptors here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        proxy = pillion(http_config(NOWHERE))
        descriptors, before = descriptors_at_first(proxy), proxy.rss()
        host, _, port = proxy.address().rpartition(":")
        with contextlib.ExitStack() as stack:
            for index in range(count):
                sock = stack.enter_context(socket.create_connection((host, int(port))))
                # Half of them have had a request, a few are inside one.
                if index % 2:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
                elif index % 10 == 0:
                    sock.sendall(b"GET / HTTP/1.1\r\nHo")
            eventually(lambda: proxy.metrics().value("pillion_listener_connections_active") == count, "all accepted")
            eventually(lambda: proxy.metrics().value("pillion_http_requests_total") == count // 2, "all answered")
            full, held = proxy.rss(), proxy.descriptors() - descriptors
            assert held >= count
        empty(proxy, descriptors)
        after = proxy.rss()
        print(f"{count} connections: {held} descriptors, {(full - before) / count / 1024:.1f} KiB each; "
              f"memory {before / MIB:.1f} MiB before, {full / MIB:.1f} with them, {after / MIB:.1f} after")
        assert fetch(proxy.address()).reason in ("connect_failed", "breaker_open")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
