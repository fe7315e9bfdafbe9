"""What it costs to find a request's route and its endpoint, by the number of them."""

import contextlib
import json
from collections.abc import Iterator

from load import run
from peer import Peer
from scenario import Stage, Turn

FEW, MANY = 10, 10_000


@contextlib.contextmanager
def among_many(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    def turn() -> dict[str, float]:
        few, many = (
            json.loads(run(stage.cores.proxy, [str(stage.programs / "scale"), str(size)]))["ns"] for size in (FEW, MANY))
        return {"few_ns": few, "many_ns": many, "growth": many / few}

    yield {peer.name: turn for peer in peers}
