"""10,000 messages from AMQP to HTTP and from HTTP to AMQP, through routes in YAML.

All there, none twice when nothing fails; none lost when the broker goes in the middle. What was
sent and what arrived is told by ledgers of processes that are not the bus.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from rabbitmq import Broker
from support.broker import Rabbit, unique
from support.broker import rabbit as outside_view
from support.bus import running, url
from support.ledger import Watch, messages, read, sha256
from support.receiver import backend
from support.sender import Load, sender
from support.waiting import until

from esb.bus import Bus

COUNT = 10_000
MESSAGES = list(messages("orders", 32, COUNT))
EXPECTED = {(message.id, message.sha256) for message in MESSAGES}

ROUTES = """
connections:
  rabbit: {{amqp: {{url: "{broker}", reconnect: 100ms..1s}}}}

routes:
  orders-out:
    from: {{amqp: {{connection: rabbit, queue: {outgoing}, prefetch: 100}}}}
    steps:
      - send: {{http: {{url: "{backend}/orders", method: PUT, timeout: 20s}}}}
    retry: {{attempts: 5, backoff: 100ms..1s}}

  orders-in:
    from: {{http: {{path: /orders, method: POST}}}}
    steps:
      - send: {{amqp: {{connection: rabbit, queue: {incoming}}}}}
"""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def arrived(file: Path) -> Counter[tuple[str, str]]:
    """What the backend got, and how often."""
    return Counter((line[1], line[4]) for line in read(file, "D"))


def load(bus: Bus) -> Load:
    """All of the messages, for the route that takes them over HTTP."""
    return Load({"orders": f"{url(bus)}/orders"}, keys=32, count=COUNT, sync=False)


async def taken(rabbit: Rabbit, queue: str, count: int) -> Counter[tuple[str, str]]:
    """What lies in the queue, and how often."""
    got: Counter[tuple[str, str]] = Counter()
    for message in await rabbit.take_all(queue, count):
        got[json.loads(message.body)["id"], sha256(message.body)] += 1
    return got


async def test_all_are_there_and_none_twice(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    outgoing, incoming = await rabbit.queue("outgoing"), await rabbit.queue("incoming")
    out_ledger, in_ledger = tmp_path / "out.ledger", tmp_path / "in.ledger"
    delivered = Watch(out_ledger)
    with backend(out_ledger) as behind:
        routes = ROUTES.format(
            broker=broker_url, backend=behind.url, outgoing=outgoing, incoming=incoming
        )
        async with running(routes, tmp_path) as bus:
            await rabbit.put_many(outgoing, [message.body for message in MESSAGES])
            await until(lambda: delivered.count("D") >= COUNT, timeout=60)
            with sender(in_ledger, load(bus)) as sending:
                assert await asyncio.to_thread(sending.wait, 60) == 0
    got = arrived(out_ledger)
    assert set(got) == EXPECTED
    assert set(got.values()) == {1}
    assert await rabbit.counts(outgoing) == (0, 0)

    assert list(read(in_ledger, "FU")) == []
    assert await rabbit.ready(incoming) == COUNT
    got = await taken(rabbit, incoming, COUNT)
    assert set(got) == EXPECTED
    assert set(got.values()) == {1}


@pytest.mark.parametrize("hard", [True, False], ids=["killed", "restarted"])
async def test_none_is_lost_when_the_broker_goes_in_the_middle(
    broker_of_its_own: Broker, tmp_path: Path, hard: bool
) -> None:
    broker = broker_of_its_own
    outgoing, incoming = unique("outgoing"), unique("incoming")
    out_ledger, in_ledger = tmp_path / "out.ledger", tmp_path / "in.ledger"
    delivered, accepted = Watch(out_ledger), Watch(in_ledger)
    async with outside_view(broker.url) as view:
        for queue in (outgoing, incoming):
            await view.channel.declare_queue(queue, durable=True)
        await view.put_many(outgoing, [message.body for message in MESSAGES])
    with backend(out_ledger) as behind:
        routes = ROUTES.format(
            broker=broker.url, backend=behind.url, outgoing=outgoing, incoming=incoming
        )
        async with running(routes, tmp_path) as bus:
            with sender(in_ledger, load(bus)) as sending:
                await until(lambda: accepted.count("A") > 1_000, timeout=60)
                before = delivered.count("D"), accepted.count("A")
                await asyncio.to_thread(broker.restart, hard=hard)
                assert await asyncio.to_thread(sending.wait, 90) == 0
            await until(lambda: delivered.count("D") >= COUNT, timeout=60)
            await until(lambda: _drained(broker.url, outgoing), timeout=60)

    # The outage was in the middle, and callers heard of it.
    assert all(0 < count < COUNT for count in before)
    refused = Counter(line[2] for line in read(in_ledger, "U"))
    assert refused
    assert set(refused) <= {"502", "503", "504"}

    assert set(arrived(out_ledger)) == EXPECTED
    assert len(list(read(in_ledger, "A"))) == COUNT
    async with outside_view(broker.url) as view:
        waiting = await view.ready(incoming)
        got = await taken(view, incoming, waiting)
    assert set(got) == EXPECTED
    # More than once came only what a caller was not told about and sent again.
    assert waiting - COUNT <= refused.total()


async def _drained(broker: str, queue: str) -> bool:
    async with outside_view(broker) as view:
        return await view.ready(queue) == 0
