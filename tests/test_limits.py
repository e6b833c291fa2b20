"""Limits and caches over real HTTP, SOAP and AMQP, and over a real Redis."""

from __future__ import annotations

import asyncio
import json
import shutil
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from redis_server import RedisServer
from servers import ports
from support.backend import Backend
from support.backend import backend as rest
from support.broker import Rabbit
from support.bus import running, store_of, url
from support.peers import HERE
from support.redis import section
from support.soap import GET, S12, Client, soap
from support.waiting import until

from esb.api import AdminServer
from esb.auth.keys import new_key
from esb.redis import Redis, RedisOptions


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


Told = tuple[int, Any, bytes]


async def get(session: aiohttp.ClientSession, address: str, **headers: str) -> Told:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.get(address, headers=named) as answer:
        return answer.status, answer.headers, await answer.read()


ECHO = """
routes:
  echo:
    from: {http: {path: "/echo/:who", method: GET}}
    rate_limit: %s
    steps: [{set: {body: path.who}}]
"""


# --- limits ---------------------------------------------------------------------------------------


async def test_a_caller_is_told_what_is_left_and_when_to_come_back(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    limits = "[2/1h, {limit: 100/day, per: principal, name: daily}]"
    async with running(ECHO % limits, tmp_path) as bus:
        address = f"{url(bus)}/echo/ann"
        status, headers, body = await get(http, address)
        assert (status, body) == (200, b'"ann"')
        assert headers["ratelimit-policy"] == '"2-per-3600s";q=2;w=3600, "daily";q=100;w=86400'
        assert headers["ratelimit"].startswith('"2-per-3600s";r=1;t=')
        await get(http, address)
        status, headers, body = await get(http, address)
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 7200
        assert headers["ratelimit"].startswith('"2-per-3600s";r=0;t=')
        assert headers["content-type"] == "application/problem+json"
        assert b"urn:esb:problem:throttled" in body
        assert b'"violated-policies":["2-per-3600s"]' in body


async def test_each_address_has_its_own_limit_and_a_header_makes_no_other(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    limits = "{limit: 1/1h, per: address}"
    text = ECHO % limits + "\nlisten: {port: 0, trusted_proxies: [127.0.0.1]}\n"
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/echo/ann"
        seen = [
            (await get(http, address, X_Forwarded_For=client))[0]
            for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        ]
        assert seen == [200, 200, 429]
    (tmp_path / "other").mkdir()
    async with running(ECHO % limits, tmp_path / "other") as bus:
        address = f"{url(bus)}/echo/ann"
        seen = [
            (await get(http, address, X_Forwarded_For=f"192.0.2.{n}", Client="x"))[0]
            for n in range(3)
        ]
        assert seen == [200, 429, 429]


async def test_two_buses_share_a_limit_through_redis(
    tmp_path: Path, redis_url: str, http: aiohttp.ClientSession
) -> None:
    text = ECHO % "10/1h" + section(redis_url)
    async with AsyncExitStack() as stack:
        buses = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            buses.append(await stack.enter_async_context(running(text, tmp_path / name)))
        asking = [get(http, f"{url(bus)}/echo/ann") for bus in buses for _ in range(20)]
        statuses = [status for status, _, _ in await asyncio.gather(*asking)]
        assert statuses.count(200) == 10
        assert statuses.count(429) == 30


async def test_with_redis_gone_callers_are_served(
    tmp_path: Path, redis_of_its_own: RedisServer, http: aiohttp.ClientSession
) -> None:
    text = ECHO % "1/1h" + section(redis_of_its_own.url)
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/echo/ann"
        assert [(await get(http, address))[0] for _ in range(2)] == [200, 429]
        redis_of_its_own.kill()
        assert [(await get(http, address))[0] for _ in range(3)] == [200] * 3
        ready, told = bus.readyz()
        assert ready
        assert "away" in told["warnings"]["redis"]
        redis_of_its_own.start()  # it has forgotten what it had counted
        await until(lambda: _status(http, address, 429))


async def _status(http: aiohttp.ClientSession, address: str, wanted: int) -> bool:
    return (await get(http, address))[0] == wanted


async def test_what_is_accepted_has_been_allowed(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          orders:
            from: {http: {path: /orders}}
            accept: durable
            rate_limit: 2/1h
            steps: [{send: {queue: done}}]
    """
    async with running(text, tmp_path) as bus:
        statuses = []
        for number in range(4):
            async with http.post(f"{url(bus)}/orders", json={"n": number}) as answer:
                statuses.append(answer.status)
        assert statuses == [202, 202, 429, 429]
        await until(lambda: _lies(bus, "done", 2))


async def _lies(bus: Any, queue: str, many: int) -> bool:
    counts = await store_of(bus).counts()
    return {name: n for name, n in counts.items() if queue in name} != {} and many == sum(
        n for name, n in counts.items() if queue in name
    )


async def test_messages_of_a_queue_wait_and_none_is_lost(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    queue, out = await rabbit.queue("limited"), await rabbit.queue("out")
    for number in range(6):
        await rabbit.put(queue, f"{number}")
    text = f"""
        routes:
          r:
            from: {{amqp: {{url: "{broker_url}", queue: {queue}}}}}
            rate_limit: 2/200ms
            steps: [{{send: {{amqp: {{url: "{broker_url}", queue: {out}}}}}}}]
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with running(text, tmp_path) as bus:
        bodies = [message.body for message in await rabbit.take_all(out, 6)]
        assert sorted(bodies) == [b"%d" % number for number in range(6)]
        assert loop.time() - begun > 0.2  # they did not go at once
        assert await store_of(bus).counts() == {}  # no dead letter


SOAP = """
routes:
  partners:
    from: {soap: {wsdl: partner.wsdl, path: /soap}}
    %s
    steps:
      - send: {queue: asked}
      - set: {body: "{'partner': {'id': 1, 'name': 'Ann', 'kind': 'company', 'balance': '1.10'}}"}
"""


async def test_a_soap_caller_is_told_by_a_fault(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    shutil.copy(HERE / "partner.wsdl", tmp_path)
    async with running(SOAP % "rate_limit: 1/1h", tmp_path) as bus:
        client = Client(f"{url(bus)}/soap", http, [])
        await client.answer(soap(GET))
        assert client.headers["ratelimit"].startswith('"1-per-3600s";r=0')
        fault = await client.fault(soap(GET))
        assert fault.code == "Server"
        assert "1-per-3600s" in fault.reason
        assert int(client.headers["retry-after"]) > 0
        assert client.headers["ratelimit-policy"] == '"1-per-3600s";q=1;w=3600'


async def test_what_a_hosted_service_answers_is_kept_by_operation_and_body(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    shutil.copy(HERE / "partner.wsdl", tmp_path)
    async with running(SOAP % "cache: 60s", tmp_path) as bus:
        client = Client(f"{url(bus)}/soap", http, [])
        for _ in range(3):
            await client.answer(soap(GET))
            await client.answer(soap(GET, S12), kind="application/soap+xml")
        await client.answer(soap(GET.replace("<id>1", "<id>2")))
        assert await store_of(bus).counts() == {"queue:asked": 2}


async def test_an_exposed_operation_is_asked_once(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    for name in ("far", "near"):
        (tmp_path / name).mkdir()
        shutil.copy(HERE / "partner.wsdl", tmp_path / name)
    async with running(SOAP % "description: far", tmp_path / "far") as far:
        text = f"""
            expose:
              partners:
                wsdl: partner.wsdl
                at: /partners
                url: {url(far)}/soap
                only_listed: true
                operations:
                  getPartner: {{at: "GET /:id", cache: 60s, rate_limit: 5/1h}}
        """
        async with running(text, tmp_path / "near") as bus:
            address = f"{url(bus)}/partners/1"
            answers = [await get(http, address) for _ in range(3)]
            assert {status for status, _, _ in answers} == {200}
            assert await store_of(far).counts() == {"queue:asked": 1}
            assert len({body for _, _, body in answers}) == 1
            document = json.loads((await get(http, f"{url(bus)}/partners/openapi.json"))[2])
            assert {"200", "304", "429"} <= document["paths"]["/partners/{id}"]["get"][
                "responses"
            ].keys()
            as_xml = await get(http, address, Accept="application/xml")
            assert b"getPartnerResponse" in as_xml[2]
            tag = answers[0][1]["etag"]
            assert as_xml[1]["etag"] != tag
            assert (await get(http, address, If_None_Match=tag))[0] == 304
            assert (await get(http, address))[0] == 429


# --- caches ---------------------------------------------------------------------------------------


def price(far: Backend, policy: str) -> str:
    return textwrap.dedent(f"""
        routes:
          price:
            from: {{http: {{path: "/price/:id", method: GET}}}}
            cache: {policy}
            steps: [{{call: {{http: "{far.url}/price/{{{{ path.id }}}}"}}}}]
    """)


async def test_an_answer_is_kept_until_it_expires(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        async with running(price(far, "300ms"), tmp_path) as bus:
            address = f"{url(bus)}/price/7"
            for _ in range(3):
                status, headers, body = await get(http, address)
                assert (status, body) == (200, b'{"ok": true}')
                assert headers["cache-control"] == "max-age=0"
                assert headers["age"] == "0"
            assert len(far.asked) == 1
            await get(http, f"{url(bus)}/price/8")
            assert len(far.asked) == 2
            await until(lambda: _asked(http, address, far, 3))


async def _asked(http: aiohttp.ClientSession, address: str, far: Backend, times: int) -> bool:
    assert (await get(http, address))[0] == 200
    return len(far.asked) == times


async def test_who_has_the_answer_already_is_told_so(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        async with running(price(far, "1h"), tmp_path) as bus:
            address = f"{url(bus)}/price/7"
            _, headers, _ = await get(http, address)
            tag = headers["etag"]
            for given in (tag, f'W/{tag}, "x"', "*", f'"x", {tag}'):
                status, headers, body = await get(http, address, If_None_Match=given)
                assert (status, body) == (304, b"")
                assert headers["etag"] == tag
                assert headers["cache-control"] == "max-age=3600"
                assert "content-type" not in headers
            assert (await get(http, address, If_None_Match='"other"'))[0] == 200
            assert len(far.asked) == 1
            far.content = ("application/json", b"{}")
            assert (await get(http, f"{url(bus)}/price/8"))[1]["etag"] != tag


async def test_fifty_callers_are_one_call(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with rest() as far:
        async with running(price(far, "{ttl: 60s}"), tmp_path) as bus:
            address = f"{url(bus)}/price/7"
            answers = await asyncio.gather(*(get(http, address) for _ in range(50)))
            assert {status for status, _, _ in answers} == {200}
            assert len(far.asked) == 1


async def test_a_stale_answer_is_given_while_the_far_side_is_away(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    policy = "{ttl: 50ms, stale_if_error: 1h}"
    with rest() as far:
        async with running(price(far, policy), tmp_path) as bus:
            address = f"{url(bus)}/price/7"
            await get(http, address)
            await asyncio.sleep(0.06)
            far.statuses.extend([503] * 5)
            status, _, body = await get(http, address)
            assert (status, body) == (200, b'{"ok": true}')
            assert len(far.asked) > 1


async def test_an_answer_is_for_who_asked_and_a_denied_one_is_not_kept(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          who:
            from: {http: {path: /who, method: GET}}
            cache: {ttl: 1h, vary: [X-Tenant]}
            steps:
              - choose:
                  - when: headers['authorization'] == 'Bearer bad'
                    steps: [{fail: {as: denied, message: not you}}]
              - set: {body: "headers['authorization']"}
    """
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/who"
        for _ in range(2):
            for token in ("Bearer a", "Bearer b"):
                status, headers, body = await get(http, address, Authorization=token)
                assert (status, body) == (200, f'"{token}"'.encode())
                assert headers["cache-control"] == "private, max-age=3600"
                assert "authorization" in headers["vary"]
            assert (await get(http, address, Authorization="Bearer bad"))[0] in (401, 403)


async def test_each_principal_has_his_own_answers_and_his_own_limit(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    people = {name: new_key() for name in ("ann", "bob", "eve")}
    roles = {"ann": ["reader"], "bob": ["reader"], "eve": []}
    entries = [
        {"name": name, "sha256": sha256, "roles": roles[name]}
        for name, (_, sha256) in people.items()
    ]
    (tmp_path / "keys.yml").write_text(json.dumps({"keys": entries}))
    text = """
        auth: {keys: {api_keys: {file: keys.yml}}}
        routes:
          mine:
            from: {http: {path: /mine, method: GET, auth: keys}}
            allow: {roles: [reader]}
            rate_limit: {limit: 3/1h, per: principal}
            cache: 1h
            steps: [{send: {queue: ran}}, {set: {body: message.principal}}]
    """
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/mine"

        async def ask(name: str) -> tuple[int, bytes]:
            status, _, body = await get(http, address, X_API_Key=people[name][0])
            return status, body

        for _ in range(2):
            assert await ask("ann") == (200, b'"ann"')
            assert await ask("bob") == (200, b'"bob"')
            assert (await ask("eve"))[0] == 403
        assert (await get(http, address))[0] == 401
        assert await store_of(bus).counts() == {"queue:ran": 2}
        assert (await ask("ann"))[0] == 200
        assert (await ask("ann"))[0] == 429
        assert (await ask("bob"))[0] == 200


async def test_what_answers_are_not_told_apart_by_does_not_reach_the_far_side(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        async with running(price(far, "{ttl: 1h, vary: [X-Tenant]}"), tmp_path) as bus:
            address = f"{url(bus)}/price/7"
            for key in ("ann's", "bob's"):
                await get(http, address, X_API_Key=key, X_Tenant="a")
            await get(http, address, X_Tenant="b")
            assert [(one.headers["x-tenant"], one.headers["x-api-key"]) for one in far.asked] == [
                ("a", None),
                ("b", None),
            ]


async def test_two_buses_share_answers_through_redis(
    tmp_path: Path, redis_url: str, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        text = price(far, "60s") + section(redis_url)
        async with AsyncExitStack() as stack:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                bus = await stack.enter_async_context(running(text, tmp_path / name))
                assert (await get(http, f"{url(bus)}/price/7"))[2] == b'{"ok": true}'
        assert len(far.asked) == 1


async def test_a_redis_that_is_not_there_is_told_before_anybody_asks(tmp_path: Path) -> None:
    with ports(0) as (port,):
        pass
    with structlog.testing.capture_logs() as logs:
        async with running(
            ECHO % "1/1h" + section(f"redis://:s3cret@127.0.0.1:{port}/0"), tmp_path
        ) as bus:
            await until(lambda: "warnings" in bus.readyz()[1])
            ready, told = bus.readyz()
    (log,) = (one for one in logs if one["event"] == "redis is away")
    for text in (*told["warnings"].values(), log["error"]):
        assert f"127.0.0.1:{port}: ConnectionError: [Errno 111]" in text
    assert ready
    assert told["status"] == "ok"
    assert "s3cret" not in repr((told, logs))


async def test_a_redis_that_comes_later_is_seen_though_nobody_asks(tmp_path: Path) -> None:
    with ports(0) as (port,):
        pass
    server = RedisServer(port)
    redis = Redis(server.url, RedisOptions())
    await redis.open()
    try:
        await until(lambda: redis.health().detail.startswith("away"))
        with server:
            await until(lambda: not redis.health().detail)
    finally:
        await redis.close()


async def test_the_answers_of_a_call_are_kept_beside_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        text = f"""
            routes:
              order:
                from: {{http: {{path: "/order/:id", method: GET}}}}
                steps:
                  - call: {{http: "{far.url}/customer"}}
                    cache: {{ttl: 60s, key: "'all'"}}
                  - set: {{body: path.id}}
        """
        async with running(text, tmp_path) as bus:
            bodies = [(await get(http, f"{url(bus)}/order/{n}"))[2] for n in range(3)]
            assert bodies == [b'"0"', b'"1"', b'"2"']
            assert len(far.asked) == 1


async def test_answers_are_forgotten_when_an_operator_says_so(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with rest() as far:
        async with running(price(far, "1h"), tmp_path) as bus:
            server = AdminServer(bus, None, "127.0.0.1", 0)
            await server.open()
            admin = f"http://127.0.0.1:{server.port}"
            try:
                for path, status, told in (
                    ("/routes/price/cache", 200, {"forgotten": 1}),
                    ("/cache", 200, {"forgotten": 1}),
                    ("/cache", 200, {"forgotten": 0}),
                    ("/routes/prices/cache", 404, {"detail": "there is no route 'prices'"}),
                ):
                    if told != {"forgotten": 0}:
                        await get(http, f"{url(bus)}/price/7")
                    async with http.delete(admin + path) as answer:
                        assert (answer.status, await answer.json()) == (status, told)
                assert len(far.asked) == 3
            finally:
                await server.close()
