"""Brokers that stop, die, hang, block and refuse; nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from rabbitmq import Broker
from support.amqp import Endpoints, endpoints, persistently
from support.broker import rabbit as outside_view
from support.broker import unique
from support.contract import Recorder, started
from support.proxy import Proxy, proxy
from support.waiting import until

from esb.adapter import BuildFailed
from esb.envelope import Body, Envelope
from esb.errors import (
    EsbError,
    Overloaded,
    Rejected,
    TimedOut,
    TooLarge,
    Unreachable,
)
from esb.service import Service

COUNT = 10_000


class Certificates:
    """An authority, and what it signed."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1")
        client = authority.issue_cert("esb@example.org")
        self.ca, self.other_ca = folder / "ca.pem", folder / "other.pem"
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client.key"
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        for issued, cert, key in (
            (server, self.cert, self.key),
            (client, self.client_cert, self.client_key),
        ):
            issued.private_key_pem.write_to_path(key)
            cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def broker(certificates: Certificates, tls_port: int) -> Iterator[Broker]:
    """A broker that these tests may stop, kill and misconfigure."""
    config = f"""
        max_message_size = 1000000
        listeners.ssl.1 = 127.0.0.1:{tls_port}
        ssl_options.cacertfile = {certificates.ca}
        ssl_options.certfile = {certificates.cert}
        ssl_options.keyfile = {certificates.key}
        ssl_options.verify = verify_peer
        ssl_options.fail_if_no_peer_cert = true
        """
    with Broker(config="\n".join(line.strip() for line in config.splitlines())) as broker:
        yield broker


@pytest.fixture
async def made(broker: Broker) -> AsyncIterator[Endpoints]:
    await asyncio.to_thread(broker.start)  # in case the last test left it dead
    async with endpoints(broker.url) as made:
        yield made


def message(body: bytes = b"{}", **attributes: Any) -> Envelope:
    return Envelope(body=Body(body, "application/json"), **attributes)


# --- the broker goes and comes back ---------------------------------------------------------------


@pytest.mark.parametrize("hard", [True, False], ids=["killed", "restarted"])
async def test_nothing_is_lost_when_the_broker_goes_in_the_middle(
    broker: Broker, made: Endpoints, hard: bool
) -> None:
    """10,000 in, 10,000 out, through a classic and a quorum queue, the broker gone half-way."""
    queues = {kind: unique(kind) for kind in ("classic", "quorum")}
    sinks = [made.sink(queue=q, declare={"type": kind}) for kind, q in queues.items()]
    sources = [made.source(queue=q, declare={"type": kind}) for kind, q in queues.items()]
    await made.open()
    await until(lambda: all(thing.health().up for thing in made.build.objects.values()))
    if hard:
        # RabbitMQ 3.10 keeps a quorum queue in memory for its first seconds, all that it confirmed
        # with it; after a clean stop it is on the disk.
        await asyncio.to_thread(broker.restart)

    sent: set[int] = set()
    repeats = 0
    numbers = iter(range(COUNT))

    async def sender() -> None:
        nonlocal repeats
        for number in numbers:
            attempts = await persistently(sinks[number % 2], message(b"%d" % number))
            repeats += attempts - 1
            sent.add(number)

    senders = [asyncio.ensure_future(sender()) for _ in range(100)]
    await until(lambda: len(sent) > COUNT / 3, timeout=60)
    sent_before = len(sent)
    await asyncio.to_thread(broker.restart, hard=hard)
    await asyncio.gather(*senders)
    assert repeats, "the outage met no message, so the test showed nothing"
    assert sent_before < COUNT

    got: Counter[int] = Counter()

    async def step(envelope: Envelope) -> Envelope:
        await asyncio.sleep(0.001)
        got[int(envelope.body.raw)] += 1
        return envelope

    for source in sources:
        await source.start(step)
    await until(lambda: len(got) > COUNT / 3, timeout=60)
    got_before = len(got)
    await asyncio.to_thread(broker.restart, hard=hard)
    await until(lambda: len(got) == COUNT, timeout=60)
    assert got_before < COUNT
    assert set(got) == sent == set(range(COUNT))
    if not hard:
        # Twice came what was in the air: unconfirmed when sent, not acknowledged when taken.
        # (A broker that is killed forgets more acknowledgements than that, of classic queues.)
        assert sum(got.values()) - COUNT <= repeats + 100 * len(sources)

    for source in sources:
        await source.stop(10)
    async with outside_view(broker.url) as view:
        assert [await view.counts(q) for q in queues.values()] == [(0, 0), (0, 0)]


async def test_a_broker_that_is_not_there_yet_is_waited_for(broker: Broker) -> None:
    await asyncio.to_thread(broker.stop)
    queue = unique("orders")
    async with endpoints(broker.url) as made:
        step = Recorder()
        source = made.source(queue=queue, declare={})
        sink = made.sink(queue=queue)
        await made.open()
        with structlog.testing.capture_logs() as logs:
            async with started(source, step):
                await until(lambda: "connection refused" in source.health().detail)
                assert source.health().detail.startswith(
                    f"waiting for amqp://127.0.0.1:{broker.port}/"
                )
                with pytest.raises(Unreachable, match="connection refused"):
                    await sink.send(message())
                await asyncio.to_thread(broker.start)
                await until(lambda: source.health().up)
                await sink.send(message())
                await until(lambda: step.finished)
    # One line for an outage and one for its end, on each of the two connections.
    assert Counter(entry["log_level"] for entry in logs) == {"warning": 2, "info": 2}


async def test_what_is_in_the_route_when_the_broker_dies_comes_again(
    broker: Broker, made: Endpoints
) -> None:
    """An acknowledgement of before is never given after: it would be another message's."""
    queue = unique("orders")
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    source, sink = made.source(queue=queue, declare={"type": "classic"}), made.sink(queue=queue)
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        # A broker that is killed may forget a queue this young, and all in it: it writes down that
        # there is one a moment after it says so.
        await asyncio.to_thread(broker.restart)
        await until(lambda: source.health().up)
        for number in range(10):
            await persistently(sink, message(b"%d" % number))
        await until(lambda: step.running == 10)
        await asyncio.to_thread(broker.restart, hard=True)
        await until(lambda: len(step.got) == 20, timeout=30)
        assert all(e.params["amqp"]["redelivered"] for e in step.got[10:])
        gate.set()
        await until(lambda: len(step.finished) == 20)
    async with outside_view(broker.url) as view:
        assert await view.counts(queue) == (0, 0)


async def test_stopping_while_the_broker_is_away_is_quick(broker: Broker, made: Endpoints) -> None:
    queue = unique("orders")
    step = Recorder(gate=asyncio.Event())
    source, sink = made.source(queue=queue, declare={}), made.sink(queue=queue)
    await made.open()
    await source.start(step)
    await until(lambda: source.health().up)
    await sink.send(message())
    await until(lambda: step.running)
    await asyncio.to_thread(broker.kill)
    await until(lambda: not source.health().up)
    began = time.monotonic()
    await source.stop(0.1)
    await made.close()
    assert time.monotonic() - began < 5


async def test_the_next_node_of_the_list_is_taken(broker: Broker) -> None:
    """At once, and again after each loss, without a pause while there are others to try."""
    await asyncio.to_thread(broker.start)
    queue = unique("orders")
    async with proxy(broker.port) as one, proxy(broker.port) as other:
        nowhere, *nodes = (f"amqp://127.0.0.1:{port}" for port in (1, one.port, other.port))
        async with endpoints([nowhere, *nodes], reconnect="1h") as made:
            step = Recorder()
            source, sink = made.source(queue=queue, declare={}), made.sink(queue=queue)
            await made.open()
            async with started(source, step):
                await until(lambda: source.health().up)
                await sink.send(message(b"1"))
                assert (one.connections, other.connections) == (2, 0)
                one.cut()
                await until(lambda: other.connections == 2)
                await persistently(sink, message(b"2"))
                await until(lambda: {e.body.raw for e in step.finished} == {b"1", b"2"})


async def test_nodes_that_are_all_away_are_waited_for() -> None:
    urls = ["amqp://127.0.0.1:1", "amqp://u:s3cr3t@127.0.0.1:2/v"]
    async with endpoints(urls) as made:
        source = made.source(queue="q")
        await made.open()
        async with started(source, Recorder()):
            await until(lambda: "connection refused" in source.health().detail)
            waiting = "waiting for amqp://127.0.0.1:1/, amqp://127.0.0.1:2/v: "
            assert source.health().detail == waiting + "connection refused"


async def test_two_brokers_at_once(broker: Broker, broker_url: str, made: Endpoints) -> None:
    """From one to the other; the one that is away stops nobody on the other."""
    here, there = unique("here"), unique("there")
    source = made.source(queue=here, declare={})
    feed, echo = (
        made.sink(queue=here, declare={}),
        made.sink(queue=there, url=broker_url, declare={}),
    )
    await made.open()

    async def step(envelope: Envelope) -> Envelope:
        await persistently(echo, envelope)
        return envelope

    await source.start(step)
    await persistently(feed, message(b"1"))
    async with outside_view(broker_url) as view:
        assert (await view.take(there)).body == b"1"
        await asyncio.to_thread(broker.kill)
        await echo.send(message(b"2"))
        assert (await view.take(there)).body == b"2"


# --- the network ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def through(broker: Broker, **options: Any) -> AsyncIterator[tuple[Proxy, Endpoints]]:
    """Endpoints that reach the broker through a proxy."""
    await asyncio.to_thread(broker.start)
    async with (
        proxy(broker.port) as wire,
        endpoints(f"amqp://127.0.0.1:{wire.port}", **options) as made,
    ):
        yield wire, made


async def test_a_connection_that_is_cut_is_made_again(broker: Broker) -> None:
    queue = unique("orders")
    async with through(broker) as (wire, made):
        step = Recorder()
        source, sink = made.source(queue=queue, declare={}), made.sink(queue=queue)
        await made.open()
        async with started(source, step):
            await until(lambda: source.health().up)
            for round_ in range(1, 6):
                await persistently(sink, message(id=f"m{round_}"))
                await until(lambda r=round_: len({e.id for e in step.finished}) == r)
                wire.cut()
                await until(lambda: not source.health().up)
                await until(lambda: source.health().up)
    assert wire.connections >= 10


async def test_a_connection_that_hangs_is_noticed(broker: Broker) -> None:
    queue = unique("orders")
    async with through(broker, heartbeat="1s", connect_timeout="1s") as (wire, made):
        source = made.source(queue=queue, declare={})
        sink = made.sink(queue=queue, timeout="500ms")
        await made.open()
        async with started(source, Recorder()):
            await until(lambda: source.health().up)
            await sink.send(message())
            wire.freeze()
            began = time.monotonic()
            with pytest.raises(TimedOut, match=r"did not confirm within 0\.[45]\d* s"):
                await sink.send(message())
            await until(lambda: "nothing heard for" in source.health().detail)
            assert time.monotonic() - began < 5
            with pytest.raises(EsbError):
                await sink.send(message())
            wire.thaw()
            await until(lambda: source.health().up)


async def test_a_socket_that_takes_no_more_is_told_apart(broker: Broker) -> None:
    """Of what was not even written, nothing can have arrived."""
    queue = unique("orders")
    async with through(broker) as (wire, made):
        sink = made.sink(queue=queue, declare={}, timeout="300ms")
        patient = made.sink(queue=queue, declare={}, timeout="1m")
        await made.open()
        await patient.send(message())
        wire.freeze()
        large = message(b"x" * 900_000)
        sent = [await asyncio.gather(sink.send(large), return_exceptions=True) for _ in range(20)]
        kinds = [type(result) for (result,) in sent]
        assert kinds[0] is TimedOut
        assert kinds[-1] is Overloaded
        with pytest.raises(Overloaded, match=r"took no bytes for 0\.3 s"):
            await sink.send(message())
        wire.thaw()
        await patient.send(message())
    async with outside_view(broker.url) as view:
        bodies = [m.body for m in await view.take_all(queue, 2 + kinds.count(TimedOut))]
        assert await view.ready(queue) == 0
    assert bodies.count(large.body.raw) == kinds.count(TimedOut)


async def test_of_many_large_ones_at_once_the_rest_wait_for_the_socket(broker: Broker) -> None:
    """They do not pile up in front of one that takes no more."""
    queue = unique("orders")
    async with through(broker) as (wire, made):
        sink = made.sink(queue=queue, declare={}, timeout="500ms")
        patient = made.sink(queue=queue, declare={}, timeout="1m")
        await made.open()
        await patient.send(message())
        wire.freeze()
        sends = [sink.send(message(b"x" * 900_000).replace(id=f"m{n}")) for n in range(30)]
        kinds = [type(one) for one in await asyncio.gather(*sends, return_exceptions=True)]
        assert set(kinds) == {TimedOut, Overloaded}
        wire.thaw()
        await patient.send(message())


async def test_a_confirm_that_is_lost_is_told_as_unknown_and_safe(broker: Broker) -> None:
    queue = unique("orders")
    async with through(broker) as (wire, made):
        sink = made.sink(queue=queue, declare={})
        await made.open()
        await sink.send(message())
        wire.freeze()
        sending = asyncio.ensure_future(sink.send(message()))
        await asyncio.sleep(0)
        wire.cut()
        with pytest.raises(TimedOut) as caught:
            await sending
        assert str(caught.value) == (
            "the connection to the broker was lost before it confirmed the message"
        )
        assert caught.value.notes


async def test_a_late_return_is_no_other_messages(broker: Broker) -> None:
    """The same message, given up on its way to nobody and now sent to somebody."""
    exchange, queue = unique("exchange"), unique("orders")
    async with through(broker) as (wire, made), outside_view(broker.url) as view:
        options = {"exchange": exchange, "declare": {"type": "direct"}}
        hasty = made.sink(**options, routing_key="no.one", timeout="200ms")
        patient = made.sink(**options, routing_key="some.one")
        await made.open()
        await until(lambda: all(thing.health().up for thing in made.build.objects.values()))
        await view.channel.declare_queue(queue, durable=True)
        await view.bind(queue, exchange, "some.one")
        with pytest.raises(Rejected):
            await hasty.send(message(id="the-same"))
        wire.freeze()
        with pytest.raises(TimedOut):
            await hasty.send(message(id="the-same"))
        sending = asyncio.ensure_future(patient.send(message(id="the-same")))
        await asyncio.sleep(0.05)
        assert not sending.done()
        wire.thaw()
        # It is there, and its sender hears at least nothing that is not so.
        with pytest.raises(TimedOut, match="another message with the same id"):
            await sending
        assert (await view.take(queue)).message_id == "the-same"


# --- what a broker refuses ------------------------------------------------------------------------


async def test_a_message_over_the_brokers_limit_is_the_senders_fault(
    broker: Broker, made: Endpoints
) -> None:
    queue = unique("orders")
    sink = made.sink(queue=queue, declare={})
    await made.open()
    small = [asyncio.ensure_future(persistently(sink, message())) for _ in range(50)]
    with pytest.raises(TooLarge) as caught:
        await sink.send(message(b"x" * 1_000_001))
    assert str(caught.value) == "the message is larger than the broker takes"
    assert "larger than configured max size 1000000" in caught.value.notes[0]
    await asyncio.gather(*small)
    await sink.send(message(b"x" * 1_000_000))


async def test_a_broker_that_blocks_publishers_still_gets_acknowledgements(
    broker: Broker, made: Endpoints
) -> None:
    queue = unique("orders")
    step = Recorder()
    source = made.source(queue=queue, declare={})
    sink = made.sink(queue=queue, timeout="1s")
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        for _ in range(100):
            await sink.send(message())
        await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            # The first is taken and kept back unread; then the broker says that it blocks.
            for kind in (TimedOut, Overloaded):
                with pytest.raises(kind):
                    await sink.send(message())
            with pytest.raises(Overloaded) as caught:
                await sink.send(message())
            assert str(caught.value) == "the broker takes no messages now"
            assert "memory" in caught.value.notes[0]
            await until(lambda: len(step.finished) >= 100)
        finally:
            await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "absolute", "512MB")
        await persistently(sink, message())
        # What came last, and what the broker had kept back, is taken before the source stops.
        await until(lambda: len(step.finished) >= 102)
    async with outside_view(broker.url) as view:
        assert await view.counts(queue) == (0, 0)


async def test_what_was_delayed_waits_for_a_target_that_is_away(
    broker: Broker, made: Endpoints
) -> None:
    """The broker moves it with confirms, and tries again; three minutes later, were it not told."""
    again = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 300)."
    await asyncio.to_thread(broker.ctl, "eval", again)
    queue, dropped = unique("orders"), unique("dropped")
    delayed = made.sink(queue=queue, delay="100ms")
    await made.open()
    await persistently(delayed, message(b"late"))
    async with outside_view(broker.url) as view:
        # One that is sent later and delivered has passed it.
        await view.channel.declare_queue(dropped, durable=True)
        marker = made.sink(queue=dropped, delay="100ms")
        await made.open()
        await marker.send(message(b"marker"))
        assert (await view.take(dropped)).body == b"marker"
        await view.channel.declare_queue(queue, durable=True)
        assert (await view.take(queue, 20)).body == b"late"


# --- TLS ------------------------------------------------------------------------------------------


async def test_tls_is_mutual_and_verified(
    broker: Broker, made: Endpoints, certificates: Certificates, tls_port: int
) -> None:
    queue = unique("orders")
    url = f"amqps://guest:guest@localhost:{tls_port}/"
    good = {
        "ca": str(certificates.ca),
        "cert": str(certificates.client_cert),
        "key": str(certificates.client_key),
    }
    sink = made.sink(url=url, queue=queue, declare={}, tls=good)
    stranger = made.sink(url=url, queue=queue, tls={**good, "ca": str(certificates.other_ca)})
    system = made.sink(url=url, queue=queue)
    nameless = made.sink(url=url, queue=queue, tls={"ca": str(certificates.ca)})
    await made.open()
    await sink.send(message(b"secret"))
    for untrusting in (stranger, system):
        with pytest.raises(Unreachable) as caught:
            await untrusting.send(message())
        assert str(caught.value) == "the broker cannot be reached now"
        assert re.search("TLS: .*certificate", caught.value.notes[0])
    with pytest.raises(Unreachable):
        await nameless.send(message())
    async with outside_view(broker.url) as view:
        assert (await view.take(queue)).body == b"secret"


async def test_a_certificate_for_another_host_is_refused(
    broker: Broker, made: Endpoints, certificates: Certificates, tls_port: int
) -> None:
    tls = {
        "ca": str(certificates.ca),
        "cert": str(certificates.client_cert),
        "key": str(certificates.client_key),
    }
    sink = made.sink(url=f"amqps://127.0.0.2:{tls_port}/", queue="q", tls=tls)
    await made.open()
    with pytest.raises(Unreachable):
        await sink.send(message())


def test_unusable_certificates_are_found_at_load(tmp_path: Path, made: Endpoints) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("this is no certificate")
    for ca in (str(broken), str(tmp_path / "missing.pem")):
        with pytest.raises(BuildFailed):
            made.sink(url="amqps://localhost", queue="q", tls={"ca": ca})


async def test_a_password_of_the_broker_is_replaced_by_a_reload(
    broker: Broker, tmp_path: Path
) -> None:
    user, orders, taken = unique("bus"), unique("orders"), unique("taken")
    await asyncio.to_thread(broker.ctl, "add_user", user, "first-password")
    await asyncio.to_thread(broker.ctl, "set_permissions", user, ".*", ".*", ".*")
    secret = tmp_path / "rabbit" / "password"
    secret.parent.mkdir()
    secret.write_text("first-password\n")
    rabbit = f"username: {user}, password: '${{k8s:rabbit/password}}'"
    (tmp_path / "bus.yaml").write_text(f"""
        listen: {{port: 0}}
        admin: {{port: 0}}
        secrets: {{kubernetes: {tmp_path}, refresh: 100ms}}
        connections: {{rabbit: {{amqp: {{url: '{broker.url}', {rabbit}}}}}}}
        routes:
          take:
            from: {{amqp: {{connection: rabbit, queue: {orders}, declare: {{}}}}}}
            steps: [{{send: {{amqp: {{connection: rabbit, queue: {taken}, declare: {{}}}}}}}}]
    """)
    service = Service([tmp_path / "bus.yaml"], root=tmp_path)
    running = asyncio.create_task(service.run())

    def takes() -> bool:
        return service.bus.routes["take"].source.health().up

    try:
        await until(lambda: (service.up.is_set() and takes()) or running.done(), 60)
        first = service.bus.routes["take"]
        async with outside_view(broker.url) as outside:
            await outside.put(orders)
            await outside.take(taken)
            await asyncio.to_thread(broker.ctl, "change_password", user, "second-password")
            secret.write_text("second-password\n")
            await until(lambda: service.bus.routes["take"] is not first and takes(), 60)
            # What still had the old one is gone, and nobody comes back with it.
            await asyncio.to_thread(broker.ctl, "close_all_user_connections", user, "rotated")
            await outside.put(orders)
            await outside.take(taken, 60)
    finally:
        service.stopping.set()
        await running
