"""10,000 messages from AMQP to HTTP and from HTTP to AMQP, through routes in YAML.

All there, none twice when nothing fails; none lost when the broker goes in the middle. What was
sent and what arrived is told by ledgers of processes that are not the bus.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from rabbitmq import Broker
from support import ledger
from support.broker import Rabbit, unique
from support.broker import rabbit as outside_view
from support.bus import running, url
from support.waiting import until

COUNT = 10_000
EXPECTED = {(str(number), ledger.sha256(ledger.body_of(number))) for number in range(COUNT)}

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
    return Counter((number, digest) for number, digest in ledger.read(file, "D"))


async def taken(rabbit: Rabbit, queue: str, count: int) -> Counter[tuple[str, str]]:
    """What lies in the queue, and how often."""
    got: Counter[tuple[str, str]] = Counter()
    for message in await rabbit.take_all(queue, count):
        number = message.body.split(b",")[0].partition(b": ")[2].decode()
        got[number, ledger.sha256(message.body)] += 1
    return got


async def test_all_are_there_and_none_twice(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    outgoing, incoming = await rabbit.queue("outgoing"), await rabbit.queue("incoming")
    out_ledger, in_ledger = tmp_path / "out.ledger", tmp_path / "in.ledger"
    delivered = ledger.Watch(out_ledger)
    with ledger.backend(out_ledger) as backend:
        routes = ROUTES.format(
            broker=broker_url, backend=backend, outgoing=outgoing, incoming=incoming
        )
        async with running(routes, tmp_path) as bus:
            await rabbit.put_many(outgoing, [ledger.body_of(n) for n in range(COUNT)])
            await until(lambda: delivered.count("D") >= COUNT, timeout=60)
            with ledger.sender(in_ledger, f"{url(bus)}/orders", COUNT) as sender:
                assert await asyncio.to_thread(sender.wait, 60) == 0
    got = arrived(out_ledger)
    assert set(got) == EXPECTED
    assert set(got.values()) == {1}
    assert await rabbit.counts(outgoing) == (0, 0)

    assert ledger.read(in_ledger, "U") == []
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
    delivered, accepted = ledger.Watch(out_ledger), ledger.Watch(in_ledger)
    async with outside_view(broker.url) as view:
        for queue in (outgoing, incoming):
            await view.channel.declare_queue(queue, durable=True)
        await view.put_many(outgoing, [ledger.body_of(n) for n in range(COUNT)])
    with ledger.backend(out_ledger) as backend:
        routes = ROUTES.format(
            broker=broker.url, backend=backend, outgoing=outgoing, incoming=incoming
        )
        async with running(routes, tmp_path) as bus:
            with ledger.sender(in_ledger, f"{url(bus)}/orders", COUNT) as sender:
                await until(lambda: accepted.count("A") > 1_000, timeout=60)
                before = delivered.count("D"), accepted.count("A")
                await asyncio.to_thread(broker.restart, hard=hard)
                assert await asyncio.to_thread(sender.wait, 90) == 0
            await until(lambda: delivered.count("D") >= COUNT, timeout=60)
            await until(lambda: _drained(broker.url, outgoing), timeout=60)

    # The outage was in the middle, and callers heard of it.
    assert all(0 < count < COUNT for count in before)
    refused = Counter(status for _, status in ledger.read(in_ledger, "U"))
    assert refused
    assert set(refused) <= {"502", "503", "504"}

    assert set(arrived(out_ledger)) == EXPECTED
    assert len(ledger.read(in_ledger, "A")) == COUNT
    async with outside_view(broker.url) as view:
        waiting = await view.ready(incoming)
        got = await taken(view, incoming, waiting)
    assert set(got) == EXPECTED
    # More than once came only what a caller was not told about and sent again.
    assert waiting - COUNT <= refused.total()


async def _drained(broker: str, queue: str) -> bool:
    async with outside_view(broker) as view:
        return await view.ready(queue) == 0
