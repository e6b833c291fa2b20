"""Requests over the bridge in both directions; the peers speak AMQP through a client not ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from support.backend import Backend, backend
from support.broker import Rabbit, unique
from support.bus import running, store_of, url
from support.waiting import until

from esb.durable import DEAD


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(client: aiohttp.ClientSession, at: str, body: bytes) -> tuple[int, str, bytes]:
    headers = {"Content-Type": "application/json"}
    async with client.post(at, data=body, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.read()


async def serve(rabbit: Rabbit, queue: str, **properties: Any) -> list[Any]:
    """A service that answers each request with `properties`, or its own body upside down."""
    asked: list[Any] = []

    async def on_request(request: Any) -> None:
        asked.append(request)
        given = {"body": request.body[::-1], "content_type": "text/plain", **properties}
        reply = aio_pika.Message(correlation_id=request.correlation_id, **given)
        await rabbit.channel.default_exchange.publish(reply, request.reply_to)
        await request.ack()

    await (await rabbit.channel.get_queue(queue)).consume(on_request)
    return asked


async def ask(rabbit: Rabbit, queue: str, body: bytes) -> Any:
    """Ask over a reply queue of one's own, as most clients do."""
    replies = await rabbit.channel.declare_queue("", exclusive=True)
    request = aio_pika.Message(
        body, reply_to=replies.name, correlation_id="c-1", content_type="application/json"
    )
    await rabbit.channel.default_exchange.publish(request, queue)
    reply = await until(lambda: replies.get(fail=False, no_ack=True))
    assert reply.correlation_id == "c-1"
    return reply


def http_to_amqp(broker_url: str, queue: str, options: str = "") -> str:
    return f"""
    routes:
      ask:
        from: {{http: {{path: /ask, method: POST}}}}
        steps: [{{call: {{amqp: {{url: "{broker_url}", queue: {queue}{options}}}}}}}]
    """


def amqp_to_http(
    broker_url: str, queue: str, service: Backend, options: str = ", rpc: true", retry: int = 1
) -> str:
    return f"""
    routes:
      answer:
        from: {{amqp: {{url: "{broker_url}", queue: {queue}{options}}}}}
        steps: [{{call: {{http: "{service.url}/price"}}}}]
        retry: {{attempts: {retry}, backoff: 1ms}}
    """


# --- an HTTP caller, a service behind AMQP --------------------------------------------------------


async def test_a_service_behind_amqp_answers_http(
    rabbit: Rabbit, broker_url: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    queue = await rabbit.queue()
    asked = await serve(rabbit, queue)
    async with running(http_to_amqp(broker_url, queue), tmp_path) as bus:
        answers = await asyncio.gather(
            *(post(client, f"{url(bus)}/ask", b"question %d" % n) for n in range(50))
        )
    assert answers == [(200, "text/plain", (b"question %d" % n)[::-1]) for n in range(50)]
    assert asked[0].content_type == "application/json"


@pytest.mark.parametrize(("theirs", "ours"), [(404, 400), (503, 502)])
async def test_its_problem_is_told_to_the_caller(
    rabbit: Rabbit,
    broker_url: str,
    tmp_path: Path,
    client: aiohttp.ClientSession,
    theirs: int,
    ours: int,
) -> None:
    queue = await rabbit.queue()
    problem = {"type": "urn:shop:no-price", "detail": "no price for 7", "status": theirs}
    body = json.dumps(problem).encode()
    await serve(rabbit, queue, body=body, content_type="application/problem+json")
    async with running(http_to_amqp(broker_url, queue), tmp_path) as bus:
        status, kind, raw = await post(client, f"{url(bus)}/ask", b"{}")
    assert (status, kind) == (ours, "application/problem+json")
    told = json.loads(raw)
    assert (told["type"], told["detail"]) == ("urn:shop:no-price", "no price for 7")
    assert told["fault"] == problem


async def test_who_is_not_answered_is_told_what_is_known(
    rabbit: Rabbit, broker_url: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    queue = await rabbit.queue()
    text = http_to_amqp(broker_url, queue, ", timeout: 200ms")
    async with running(text, tmp_path) as bus:
        await until(lambda: bus.readyz()[1]["status"] == "ok")  # it has its channel
        status, _, raw = await post(client, f"{url(bus)}/ask", b"{}")
    assert (status, json.loads(raw)["type"]) == (504, "urn:esb:problem:outcome-unknown")
    text = http_to_amqp(broker_url, unique("nobody"))
    async with running(text, tmp_path) as bus:
        status, _, raw = await post(client, f"{url(bus)}/ask", b"{}")
    assert (status, json.loads(raw)["detail"]) == (502, "no queue takes the message")


# --- an AMQP caller, a service behind HTTP --------------------------------------------------------


async def test_a_service_behind_http_answers_amqp(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    with backend() as service:
        async with running(amqp_to_http(broker_url, queue, service), tmp_path):
            reply = await ask(rabbit, queue, b'{"item": 7}')
    assert (reply.body, reply.content_type) == (b'{"ok": true}', "application/json")
    assert [(one.path, one.json) for one in service.asked] == [("/price", {"item": 7})]
    assert await rabbit.counts(queue) == (0, 0)


async def test_what_it_refuses_is_told_to_who_asked(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    with backend() as service:
        service.statuses.extend([404, 500])
        async with running(amqp_to_http(broker_url, queue, service), tmp_path) as bus:
            refused, failed = [await ask(rabbit, queue, b"{}") for _ in range(2)]
            assert await store_of(bus).browse(DEAD) == []
    assert refused.content_type == failed.content_type == "application/problem+json"
    told = json.loads(refused.body)
    assert (told["type"], told["upstream_status"]) == ("urn:esb:problem:rejected", 404)
    assert json.loads(failed.body)["type"] == "urn:esb:problem:transient"
    assert len(service.asked) == 2
    assert await rabbit.counts(queue) == (0, 0)


async def test_a_route_may_retry_for_who_asks(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    with backend() as service:
        service.statuses.extend([500, 503])
        async with running(amqp_to_http(broker_url, queue, service, retry=3), tmp_path):
            reply = await ask(rabbit, queue, b"{}")
    assert reply.body == b'{"ok": true}'


async def test_without_the_option_the_message_is_kept_and_who_asked_is_told(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    with backend() as service:
        service.statuses.append(404)
        async with running(amqp_to_http(broker_url, queue, service, ""), tmp_path) as bus:
            reply = await ask(rabbit, queue, b"{}")
            (dead,) = await store_of(bus).browse(DEAD)
    assert json.loads(reply.body)["type"] == "urn:esb:problem:dead-letter"
    assert dead.failure is not None
    assert dead.failure.code == "rejected"


async def test_a_question_without_an_address_is_refused(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    dead = await rabbit.queue("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    queue = await rabbit.queue(arguments=arguments)
    with backend() as service:
        async with running(amqp_to_http(broker_url, queue, service), tmp_path):
            await rabbit.put(queue, b"to nobody")
            assert (await rabbit.take(dead)).body == b"to nobody"
    assert service.asked == []


# --- both -----------------------------------------------------------------------------------------


async def test_from_http_to_amqp_to_http_and_back(
    rabbit: Rabbit, broker_url: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    queue = await rabbit.queue()
    with backend() as service:
        text = http_to_amqp(broker_url, queue)
        text += amqp_to_http(broker_url, queue, service).replace("    routes:\n", "")
        async with running(text, tmp_path) as bus:
            at = f"{url(bus)}/ask"
            good = await post(client, at, b'{"item": 7}')
            service.statuses.append(409)
            bad = await post(client, at, b"{}")
            with_amqp = await ask(rabbit, queue, b"{}")
    assert good == (200, "application/json", b'{"ok": true}')
    status, _, raw = bad
    told = json.loads(raw)
    assert (status, told["type"]) == (502, "urn:esb:problem:rejected")
    assert told["fault"]["upstream_status"] == 409
    assert with_amqp.body == b'{"ok": true}'
