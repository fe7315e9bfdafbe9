"""What is done to the endpoints, and what is measured of it. Figures are told as (what, value, unit)."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from application import Behaviour, Endpoint, Ledger
from client import Client, Outcome

SERVICE = 0.002


@dataclass
class Figure:
    what: str
    value: float
    unit: str
    # What Pillion means to reach; the sign says on which side.
    target: str = ""


@dataclass
class World:
    endpoints: list[Endpoint]
    ledger: Ledger
    client: Client


@contextlib.asynccontextmanager
async def application(*behaviours: Behaviour) -> AsyncIterator[tuple[list[Endpoint], Ledger]]:
    ledger = Ledger()
    endpoints = [Endpoint(f"e{number}", ledger, behaviour) for number, behaviour in enumerate(behaviours)]
    for endpoint in endpoints:
        await endpoint.live()
    try:
        yield endpoints, ledger
    finally:
        for endpoint in endpoints:
            await endpoint.die()


def succeeded(outcomes: list[Outcome]) -> float:
    return 100 * sum(outcome.status == 200 for outcome in outcomes) / len(outcomes)


def worst(outcomes: list[Outcome], share: float = 0.99) -> float:
    took = sorted(outcome.took for outcome in outcomes)
    return 1000 * took[min(len(took) - 1, int(share * len(took)))]


async def flaky(world: World, method: str) -> list[Figure]:
    """One endpoint answers 503 always, one resets half of its requests."""
    outcomes = await world.client.counted(8, 5000, method)
    asked = {outcome.id for outcome in outcomes}
    seen = [count for name, count in world.ledger.seen.items() if name in asked]
    figures = [
        Figure("answered 200", succeeded(outcomes), "%", ">= 99.9" if method == "GET" else ""),
        Figure("requests that endpoints saw, for each that was asked", sum(seen) / len(outcomes), "", "<= 1.25"),
    ]
    if method == "POST":
        figures.append(Figure("seen more than once", 100 * sum(count > 1 for count in seen) / len(outcomes), "%", "<= 0"))
    return figures


async def dead(world: World) -> list[Figure]:
    """All endpoints reset everything, then all are well again."""
    await world.client.closed(4, 1)
    for endpoint in world.endpoints:
        endpoint.behaviour = Behaviour(resets=1.0)
    await world.client.at_rate(200, 2)
    before = sum(world.ledger.by_endpoint.values())
    outcomes = await world.client.at_rate(200, 4)
    load = sum(world.ledger.by_endpoint.values()) - before
    for endpoint in world.endpoints:
        endpoint.behaviour = Behaviour(delay=SERVICE)
    revived = time.monotonic()
    after = await world.client.at_rate(200, 40)
    return [
        Figure("99 of 100 answered within", worst(outcomes), "ms"),
        Figure("requests that endpoints saw, of those asked", 100 * load / len(outcomes), "%"),
        Figure("all answered 200 again after", recovery(after, revived), "s"),
    ]


def recovery(outcomes: list[Outcome], revived: float) -> float:
    """Until the last failure, in seconds."""
    return max((outcome.began - revived for outcome in outcomes if outcome.status != 200), default=0.0)


async def slow(world: World) -> list[Figure]:
    """One endpoint turns 50 times slower."""
    await world.client.closed(8, 3)
    victim = world.endpoints[0]
    victim.behaviour = Behaviour(delay=50 * SERVICE)
    shares = []

    async def watch() -> None:
        for _ in range(20):
            before = collections.Counter(world.ledger.by_endpoint)
            await asyncio.sleep(0.25)
            counts = {name: count - before[name] for name, count in world.ledger.by_endpoint.items()}
            shares.append(100 * counts.get(victim.name, 0) / max(1, sum(counts.values())))

    _, outcomes = await asyncio.gather(watch(), world.client.closed(8, 5))
    late = [outcome for outcome in outcomes if outcome.began - outcomes[0].began > 1]
    return [
        Figure("its share of the requests in the first second", sum(shares[:4]) / 4, "%"),
        Figure("afterwards", sum(shares[4:]) / len(shares[4:]), "%", "<= 5"),
        Figure("99 of 100 answered within, after the first second", worst(late), "ms"),
    ]


async def overload(world: World) -> list[Figure]:
    """Ten times as many requests as the endpoints can serve, for ten seconds; who waits for a second is gone."""
    capacity = sum(endpoint.behaviour.slots / endpoint.behaviour.delay for endpoint in world.endpoints)
    await world.client.at_rate(capacity / 2, 3)
    start = time.monotonic()
    outcomes = await world.client.at_rate(10 * capacity, 10)
    seconds = time.monotonic() - start
    good = [outcome for outcome in outcomes if outcome.status == 200 and outcome.took <= 1]
    refused = [outcome for outcome in outcomes if outcome.status not in (0, 200)]
    return [
        Figure("answered 200 within a second, of what could be", 100 * len(good) / (capacity * min(seconds, 10)), "%", ">= 90"),
        Figure("99 of 100 refusals came within", worst(refused) if refused else 0, "ms"),
    ]


@dataclass
class Scenario:
    name: str
    behaviours: tuple[Behaviour, ...]
    run: Callable[[World], Awaitable[list[Figure]]]


WELL = Behaviour(delay=SERVICE)
ILL = (WELL, Behaviour(status=503, delay=SERVICE), Behaviour(resets=0.5, delay=SERVICE))
ALL = [
    Scenario("flaky-get", ILL, lambda world: flaky(world, "GET")),
    Scenario("flaky-post", ILL, lambda world: flaky(world, "POST")),
    Scenario("dead", (WELL, WELL, WELL), dead),
    Scenario("slow", (WELL, WELL, WELL), slow),
    Scenario("overload", (Behaviour(delay=0.05, slots=2),) * 3, overload),
]
