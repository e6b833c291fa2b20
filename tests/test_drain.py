"""An orderly stop, of buses in processes of their own: nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from support import ledger
from support.broker import Rabbit
from support.processes import Process, lasting_ports, request
from support.receiver import backend
from support.sender import Load, sender
from support.stores import opened

ESB = Path(sys.executable).parent / "esb"
COUNT = 200
"""Messages of each flow."""

ROUTES = """
listen: {{port: {port}}}
admin: {{enabled: false}}
store: {{path: {store}}}
connections:
  far: {{http: {{url: "{far}", timeout: 20s}}}}
routes:
  direct:
    from: {{http: {{path: /direct}}}}
    steps: [{{send: {{http: {{connection: far}}}}}}]
  stored:
    from: {{http: {{path: /stored}}}}
    accept: durable
    steps: [{{send: {{http: {{connection: far}}}}}}]
  queued:
    from: {{http: {{path: /queued}}}}
    steps: [{{send: {{queue: work}}}}]
  work:
    from: {{queue: work}}
    steps: [{{send: {{http: {{connection: far}}}}}}]
"""

FROM_BROKER = """
  broker:
    from: {{amqp: {{url: "{broker}", queue: {queue}, prefetch: 20}}}}
    steps: [{{send: {{http: {{connection: far}}}}}}]
"""


def running(folder: Path, *options: str) -> Process:
    return Process([ESB, "run", "routes.yaml", *options], cwd=folder)


def delivered(far: Path) -> Counter[str]:
    """How often each message came to the far side."""
    return Counter(line[1] for line in ledger.read(far, "D"))


async def test_stopped_at_full_load_again_and_again_none_is_lost_and_none_comes_twice(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    [port] = lasting_ports(1)
    queue = await rabbit.queue("drained")
    far, near = tmp_path / "far.ledger", tmp_path / "near.ledger"
    arrived = ledger.Watch(far)
    base = f"http://127.0.0.1:{port}"
    flows = {name: f"{base}/{name}" for name in ("direct", "stored", "queued")}
    flows["broker"] = f"{broker_url.rstrip('/')}/{queue}"
    stops = 0
    with backend(far) as there:
        (tmp_path / "routes.yaml").write_text(
            (ROUTES + FROM_BROKER).format(
                port=port, store=tmp_path / "bus.db", far=there.url, broker=broker_url, queue=queue
            )
        )
        with sender(near, Load(flows, count=COUNT)) as sending:
            while arrived.count("D") < len(flows) * COUNT:
                with running(tmp_path) as bus:
                    before = arrived.count("D")
                    last = stops == 2 or sending.poll() is not None
                    wanted = len(flows) * COUNT if last else before + 150
                    bus.until(lambda wanted=wanted: arrived.count("D") >= wanted)
                    begun = time.monotonic()
                    assert bus.stop() == 0, bus.output
                    assert time.monotonic() - begun < 20, (
                        "it did not wait until the grace time ended"
                    )
                    stops += 1
            assert sending.wait(30) == 0
    assert stops >= 3, "it was stopped in the middle"
    expected = {one.id for flow in flows for one in ledger.messages(flow, 8, COUNT)}
    got = delivered(far)
    assert set(got) == expected
    assert {ident: count for ident, count in got.items() if count > 1} == {}
    # Who was turned away was told so: with 503, or by nobody listening. None was left in the dark.
    refused = Counter(line[0] + line[2] for line in ledger.read(near, "UF"))
    assert refused["U503"] + refused["F0"] > 0


WAITING = """
listen: {{port: {port}}}
admin: {{enabled: false}}
store: {{path: {store}}}
routes:
  direct:
    from: {{http: {{path: /direct}}}}
    steps: [{{send: {{http: "{far}"}}}}]
  queued:
    from: {{http: {{path: /queued}}}}
    steps: [{{send: {{queue: work}}}}]
  work:
    from: {{queue: work}}
    steps: [{{send: {{http: "{far}"}}}}]
    retry: {{backoff: 1h..1h, park_after: 2h}}
"""


def posted(url: str, number: int) -> int:
    """The status of the answer to a message."""
    return request("POST", url, ledger.message_at("f", number, 0, ()).body).status


async def left_in(path: Path) -> list[tuple[str, int, int, int]]:
    """What lies in a store: channel, attempts, crashes, and who has it in hand."""
    async with opened(path) as store:
        return [
            (one.channel, one.attempts, one.crashes, one.hold)
            for channel in await store.counts()
            for one in await store.browse(channel)
        ]


async def test_a_stop_does_not_wait_for_those_who_wait(tmp_path: Path) -> None:
    """Messages that wait for another try in the process, for up to an hour, are parked instead."""
    [port] = lasting_ports(1)
    base = f"http://127.0.0.1:{port}"
    refused = ledger.Watch(tmp_path / "far.ledger")
    with backend(tmp_path / "far.ledger") as far:
        far.turn("error")
        text = WAITING.format(port=port, store=tmp_path / "bus.db", far=far.url)
        (tmp_path / "routes.yaml").write_text(text)
        with running(tmp_path, "--grace", "60") as bus:
            bus.wait_for(f"{base}/readyz")
            for number in range(3):
                assert posted(f"{base}/queued", number) == 202
            bus.until(lambda: refused.count("R") == 3)
            bus.signal(signal.SIGTERM)
            assert bus.wait(30) == 0, bus.output
    assert await left_in(tmp_path / "bus.db") == [("queue:work", 1, 0, 0)] * 3


async def test_a_second_signal_hurries_and_gives_back(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    [port] = lasting_ports(1)
    queue = await rabbit.queue("hurried")
    base = f"http://127.0.0.1:{port}"
    taken = ledger.Watch(tmp_path / "far.ledger")
    with backend(tmp_path / "far.ledger") as far:
        far.turn("silent")
        text = WAITING.format(port=port, store=tmp_path / "bus.db", far=far.url)
        text += FROM_BROKER.format(broker=broker_url, queue=queue)
        text += f"connections: {{far: {{http: {{url: '{far.url}'}}}}}}\n"
        (tmp_path / "routes.yaml").write_text(text)
        with running(tmp_path, "--grace", "60") as bus:
            bus.wait_for(f"{base}/readyz")
            assert posted(f"{base}/queued", 1) == 202
            asked = asyncio.create_task(asyncio.to_thread(posted, f"{base}/direct", 2))
            await rabbit.put(queue, ledger.message_at("f", 4, 0, ()).body)
            await asyncio.to_thread(bus.until, lambda: taken.count("D") == 3)
            bus.signal(signal.SIGTERM)
            # All three are being worked on, so it does not end; who comes now is sent away.
            ready = f"{base}/readyz"
            await asyncio.to_thread(bus.until, lambda: request("GET", ready).status == 503)
            assert await asyncio.to_thread(posted, f"{base}/queued", 3) == 503
            assert not asked.done()
            bus.signal(signal.SIGTERM)
            assert await asyncio.to_thread(bus.wait, 30) == 0, bus.output
            assert await asked == 503
    # Given back in order, which is no crash that the message is to blame for.
    assert await left_in(tmp_path / "bus.db") == [("queue:work", 0, 0, 0)]
    assert await rabbit.ready(queue) == 1
