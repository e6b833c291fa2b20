"""Three nodes that are one broker, killed one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from rabbitmq import Cluster
from support.amqp import endpoints, persistently
from support.broker import rabbit, unique
from support.contract import started
from support.waiting import until

from esb.envelope import Body, Envelope

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


async def test_nothing_is_lost_while_one_node_after_the_other_dies(cluster: Cluster) -> None:
    """Sent, kept in a replicated queue, and taken, all the while."""
    queue = unique("orders")
    sent: set[int] = set()
    got: Counter[int] = Counter()
    repeats = 0
    enough = asyncio.Event()

    async def send(sink: Any, first: int) -> None:
        nonlocal repeats
        number = first
        while not enough.is_set():
            body = Body(b"%d" % number, "text/plain")
            repeats += await persistently(sink, Envelope(body=body)) - 1
            sent.add(number)
            number += 20

    async def step(envelope: Envelope) -> Envelope:
        await asyncio.sleep(0.01)
        got[int(envelope.body.raw)] += 1
        return envelope

    async with endpoints(cluster.urls) as made:
        declare = {"type": "quorum"}
        source, sink = made.source(queue=queue, declare=declare), made.sink(queue=queue)
        await made.open()
        async with started(source, step):
            await until(lambda: source.health().up)
            senders = [asyncio.ensure_future(send(sink, first)) for first in range(20)]
            kills = 0
            for node in cluster.nodes:
                before = len(sent), len(got)
                await until(lambda b=before: len(sent) > b[0] + 100 and len(got) > b[1] + 100)
                await asyncio.to_thread(node.kill)
                kills += 1
                # The others carry on.
                during = len(sent), len(got)
                await until(lambda d=during: len(sent) > d[0] + 100 and len(got) > d[1] + 100, 60)
                await asyncio.to_thread(cluster.settle)
            enough.set()
            await asyncio.gather(*senders)
            await until(lambda: sent <= set(got), timeout=60)
    assert kills == 3
    assert repeats, "the kills met no message, so the test showed nothing"
    # What is there without having been confirmed was sent again.
    assert set(got) == sent
    async with rabbit(cluster.urls[0]) as view:
        assert await view.counts(queue) == (0, 0)
