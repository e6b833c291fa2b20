"""What routes allow whose messages come by SOAP and AMQP, and who calls after a reload."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from argon2 import PasswordHasher
from support.broker import Rabbit, unique
from support.bus import load_text, running, store_of, url
from support.peers import PARTNER_WSDL
from support.soap import GET, NS, Client, soap
from support.waiting import until

from esb import control
from esb.auth.keys import digest
from esb.durable import DEAD, Store
from esb.guessing import FREE
from esb.service import Service

WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"


def as_user(user: str, body: str) -> str:
    return soap(
        body,
        header=f'<s:Header><w:Security xmlns:w="{WSSE}"><w:UsernameToken><w:Username>{user}'
        "</w:Username><w:Password>right</w:Password></w:UsernameToken></w:Security></s:Header>",
    )


async def test_operations_of_a_hosted_service_are_allowed_by_what_the_body_is_for(
    tmp_path: Path,
) -> None:
    shutil.copytree(PARTNER_WSDL.parent, tmp_path, dirs_exist_ok=True)
    text = f"""
    auth: {{it: {{mtls: {{}}}}}}
    routes:
      partners:
        from:
          soap:
            wsdl: {PARTNER_WSDL.name}
            path: /p
            security: {{users: {{ann: right, bob: right}}, roles: {{ann: [reader]}}}}
        allow: [{{operations: [getPartner], roles: [reader]}}]
        steps: [{{set: {{body: "{{'partner': {{'id': 1, 'name': principal.name, 'kind': 'company', \
'balance': 1}}}}"}}}}]
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(f"{url(bus)}/p", session, [])
        status, raw = await client.post(as_user("ann", GET))
        assert (status, b"<" in raw and b"ann" in raw) == (200, True), raw
        drop = f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
        for action in (None, f"{NS}#dropPartner", f"{NS}#getPartner"):
            status, raw = await client.post(as_user("ann", drop), action)
            assert status == 500
            assert b"not enough for this" in raw or b"action" in raw
        assert b"not enough for this" in (await client.post(as_user("ann", drop)))[1]
        fault = await client.fault(as_user("bob", GET))
        assert fault.reason == "the credentials are not enough for this"
        assert fault.code.endswith("Client")


def test_a_token_is_proof_enough_where_the_listener_asks_for_nothing(tmp_path: Path) -> None:
    shutil.copytree(PARTNER_WSDL.parent, tmp_path, dirs_exist_ok=True)
    text = f"""\
    routes:
      partners:
        from:
          soap: {{wsdl: {PARTNER_WSDL.name}, path: /p, auth: public, security: {{users: {{a: b}}}}}}
        allow: {{principals: [a]}}
        rate_limit: {{limit: 1/1m, per: principal}}
        steps: [{{set: {{body: "{{'partner': {{}}}}"}}}}]
    """
    project = load_text(text, tmp_path)
    assert (project.diagnostics, project.warnings) == ([], [])
    found = load_text(text.replace("principals:", "methods: GET, principals:"), tmp_path)
    assert [str(one) for one in found.diagnostics if "not asked with GET" in one.message]
    assert [one.line for one in found.diagnostics] == [5]


async def test_who_guesses_at_usernametokens_has_to_wait(tmp_path: Path) -> None:
    shutil.copytree(PARTNER_WSDL.parent, tmp_path, dirs_exist_ok=True)
    text = f"""
    routes:
      partners:
        from: {{soap: {{wsdl: {PARTNER_WSDL.name}, path: /p, security: {{users: {{ann: right}}}}}}}}
        steps: [{{set: {{body: "{{'partner': {{}}}}"}}}}]
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(f"{url(bus)}/p", session, [])
        for number in range(FREE):
            fault = await client.fault(as_user(f"eve{number}", GET))
            assert fault.reason == "the UsernameToken could not be authenticated"
        fault = await client.fault(as_user("ann", GET))
        assert fault.reason == "too many attempts failed"
        assert int(client.headers["retry-after"]) >= 1


async def test_a_message_of_nobody_who_may_is_a_dead_letter(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    queue, out = unique("in"), unique("out")
    text = f"""
    routes:
      in:
        from: {{amqp: {{url: "{broker_url}", queue: {queue}, principal: user_id}}}}
        allow: {{principals: [guest]}}
        steps: [{{send: {{amqp: {{url: "{broker_url}", queue: {out}}}}}}}]
    """
    await rabbit.channel.declare_queue(queue, durable=True)
    await rabbit.channel.declare_queue(out, durable=True)
    async with running(text, tmp_path) as bus:
        await rabbit.publish("", queue, b"1", headers={"user_id": "guest", "principal": "guest"})
        await rabbit.publish("", queue, b"2", user_id="guest")
        store = store_of(bus)

        async def dead() -> int:
            return (await store.counts()).get(DEAD, 0)

        await until(dead)
        found = await store.browse(DEAD, limit=10)
        assert [one.failure.code for one in found if one.failure] == ["denied"]
        assert [one.envelope.body.raw for one in found] == [b"1"]


async def test_a_reload_changes_who_may_call(tmp_path: Path) -> None:
    for name in ("one", "two"):
        entries = [{"name": name, "sha256": digest(name * 20)}]
        (tmp_path / f"{name}.keys.yaml").write_text(json.dumps({"keys": entries}))
    file = tmp_path / "routes.yaml"
    text = """
listen: {port: 0, auth: it}
admin: {port: 0, auth: it, readers: [], operators: []}
versions: {keep: 0}
auth: {it: {api_keys: {file: one.keys.yaml}}}
routes: {a: {from: {http: {path: /a, method: GET}}, steps: [log: a]}}
"""
    file.write_text(text)
    service = Service([file], root=tmp_path)
    await service.bus.start()
    try:
        async with aiohttp.ClientSession() as session:

            async def seen(path: str) -> list[int]:
                found = []
                for key in ("one" * 20, "two" * 20):
                    shown = {"X-API-Key": key}
                    async with session.get(url(service.bus) + path, headers=shown) as answer:
                        found.append(answer.status)
                return found

            assert await seen("/a") == await seen("/docs") == [200, 401]
            file.write_text(text.replace("one.keys", "two.keys"))
            assert (await service.reload())["reloaded"]
            assert await seen("/a") == await seen("/docs") == [401, 200]
            file.write_text(text.replace("one.keys", "gone.keys"))
            assert not (await service.reload())["reloaded"]
            assert await seen("/a") == await seen("/docs") == [401, 200]
    finally:
        await service.bus.stop()


async def test_what_is_not_loaded_opens_nothing(tmp_path: Path) -> None:
    entries = [{"name": "one", "sha256": digest("one" * 20)}]
    (tmp_path / "one.keys.yaml").write_text(json.dumps({"keys": entries}))
    file = tmp_path / "routes.yaml"
    auth = "auth: {it: {api_keys: {file: one.keys.yaml}}}\n"
    routes = """
listen: {port: 0}
admin: {enabled: false}
versions: {keep: 0}
routes:
  open: {from: {http: {path: /open, method: GET, auth: public}}, steps: [log: a]}
  a: {from: {http: {path: /a, method: GET, auth: it}}, steps: [log: a]}
"""
    file.write_text(auth + routes)
    service = Service([file], root=tmp_path)
    await service.bus.start()
    try:
        async with aiohttp.ClientSession() as session:

            async def docs() -> int:
                async with session.get(url(service.bus) + "/docs") as answer:
                    return answer.status

            assert await docs() == 401
            file.write_text(routes)  # half of what somebody is about to write
            assert not (await service.reload())["reloaded"]
            assert await docs() == 401
            file.write_text(routes.replace("auth: it", "auth: public"))
            assert (await service.reload())["reloaded"]
            assert await docs() == 200
    finally:
        await service.bus.stop()


async def test_who_began_before_a_reload_has_to_show_who_he_is_after_it(tmp_path: Path) -> None:
    entries = [{"name": "one", "sha256": digest("one" * 20)}]
    (tmp_path / "one.keys.yaml").write_text(json.dumps({"keys": entries}))
    file = tmp_path / "routes.yaml"
    text = """
listen: {port: 0}
admin: {enabled: false}
versions: {keep: 0}
auth: {it: {api_keys: {file: one.keys.yaml}}}
routes: {a: {from: {http: {path: /a, auth: public}}, steps: [set: {body: "{'done': true}"}]}}
"""
    file.write_text(text)
    service = Service([file], root=tmp_path)
    await service.bus.start()
    try:
        parts = urlsplit(url(service.bus))
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        file.write_text(text.replace("auth: public", "auth: it"))
        assert (await service.reload())["reloaded"]
        writer.write(b"{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        writer.close()
    finally:
        await service.bus.stop()


async def test_two_of_one_name_who_prove_it_otherwise_are_two(tmp_path: Path) -> None:
    """What is kept or counted for a key called acme is not that of a user called acme."""
    text = """
    listen: {port: 0, auth: [partners, staff]}
    auth:
      partners: {api_keys: {file: keys.yml}}
      staff: {basic: {users: users.yml}}
    routes:
      pay:
        from: {http: {path: /pay, idempotency_key: required}}
        steps: [{set: {body: principal.method}}]
      few:
        from: {http: {path: /few, method: GET}}
        rate_limit: {limit: 1/1h, per: principal}
        steps: [{set: {body: principal.method}}]
      in:
        from: {http: /in}
        accept: durable
        steps: [{set: {body: "'done'"}}]
      one:
        from: {http: {path: /one, method: GET}}
        allow: {principals: [partners/acme]}
        steps: [{set: {body: principal.name}}]
      any:
        from: {http: {path: /any, method: GET}}
        allow: {principals: acme}
        steps: [{set: {body: principal.name}}]
    """
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    users = [{"name": name, "password": cheap.hash("right")} for name in ("acme", "partners/acme")]
    (tmp_path / "users.yml").write_text(json.dumps({"users": users}))
    key = {"name": "acme", "sha256": digest("a" * 40)}
    (tmp_path / "keys.yml").write_text(json.dumps({"keys": [key]}))
    by_key = {"X-API-Key": "a" * 40}
    by_name, spoof = (
        {"Authorization": aiohttp.encode_basic_auth(name, "right")}
        for name in ("acme", "partners/acme")
    )

    async with running(text, tmp_path) as bus, aiohttp.ClientSession(url(bus)) as http:

        async def asked(method: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
            headers = {"Idempotency-Key": "1", **headers}
            async with http.request(method, path, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

        assert await asked("POST", "/pay", by_key) == (200, "partners")
        assert await asked("POST", "/pay", by_name) == (200, "staff")
        seen = [(await asked("GET", "/few", who))[0] for who in (by_key, by_name, by_key, by_name)]
        assert seen == [200, 200, 429, 429]
        _, told = await asked("POST", "/in", by_key)

        async def through() -> bool:
            return bool((await asked("GET", told["status_url"], by_key))[1]["state"] == "delivered")

        assert (await asked("GET", told["status_url"], by_key))[0] == 200
        assert (await asked("GET", told["status_url"], by_name))[0] == 404
        assert await until(through)
        assert (await asked("GET", told["status_url"], by_name))[0] == 404
        seen = [(await asked("GET", "/one", who))[0] for who in (by_key, by_name, spoof)]
        assert seen == [200, 403, 403]
        seen = [(await asked("GET", "/any", who))[0] for who in (by_key, by_name, spoof)]
        assert seen == [200, 200, 403]


async def test_a_reload_changes_whom_the_listener_and_the_admin_api_know(tmp_path: Path) -> None:
    for name in ("one", "two"):
        entries = [{"name": name, "sha256": digest(name * 20), "roles": ["reader"]}]
        (tmp_path / f"{name}.keys.yaml").write_text(json.dumps({"keys": entries}))
    file = tmp_path / "routes.yaml"
    text = """
listen: {port: 0, auth: one}
admin: {port: 0, auth: one}
versions: {keep: 0}
auth: {one: {api_keys: {file: one.keys.yaml}}, two: {api_keys: {file: two.keys.yaml}}}
routes: {a: {from: {http: {path: /a, method: GET}}, steps: [log: a]}}
"""
    file.write_text(text)
    service = Service([file], root=tmp_path)
    await service.bus.start()
    await service.admin.open()
    try:
        async with aiohttp.ClientSession() as session:

            async def seen(address: str) -> list[int]:
                found = []
                for name in ("one", "two"):
                    shown = {"X-API-Key": name * 20}
                    async with session.get(address, headers=shown) as answer:
                        found.append(answer.status)
                return found

            served = f"{url(service.bus)}/a"
            admin = f"http://127.0.0.1:{service.admin.port}/metrics"
            assert await seen(served) == await seen(admin) == [200, 401]
            file.write_text(text.replace("auth: one", "auth: two"))
            assert (await service.reload())["reloaded"]
            assert await seen(served) == await seen(admin) == [401, 200]
            file.write_text(text.replace("port: 0, auth: one}\nadmin", "port: 0}\nadmin"))
            assert not (await service.reload())["reloaded"]  # /a does not say who may call
            assert await seen(served) == await seen(admin) == [401, 200]
            two = text.replace("auth: one", "auth: two")
            file.write_text(
                two.replace("auth: two}\nversions", "auth: two, readers: boss}\nversions")
            )
            assert (await service.reload())["reloaded"]
            assert await seen(served) == [401, 200]
            assert await seen(admin) == [401, 403]
    finally:
        await service.admin.close()
        await service.bus.stop()


async def test_who_may_is_asked_of_a_dead_letter_that_is_replayed_to_another_route(
    tmp_path: Path,
) -> None:
    """It is still of whoever sent it, whoever has it replayed."""
    people = [{"name": n, "sha256": digest(n), "roles": [n]} for n in ("clerk", "boss")]
    (tmp_path / "keys.yml").write_text(json.dumps({"keys": people}))
    text = """
auth: {it: {api_keys: {file: keys.yml}}}
store: {path: bus.db}
routes:
  first:
    from: {http: {path: /first, auth: it}}
    accept: durable
    steps: [{validate: {json_schema: {type: string}}}]
  second:
    from: {queue: second}
    allow: {roles: boss}
    steps: [{log: through}]
"""

    async def dead(so_many: int) -> list[tuple[str, str, str]]:
        found, _ = await control.listed(bus.store, control.Filter(), 100, 0)
        told = [
            (one.failure.route, one.failure.code, one.envelope.principal)
            for one in found
            if one.failure
        ]
        return told if len(told) == so_many else []

    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
        for key in ("clerk", "boss"):
            async with http.post(f"{url(bus)}/first", headers={"X-API-Key": key}) as answer:
                assert answer.status == 202
        await until(lambda: dead(2))
        every = control.Selection(all=True)
        told = await control.replay(bus.store, bus.routes, every, "second")
        assert told.told("replayed") == {"replayed": 2, "refused": []}
        assert await until(lambda: dead(1)) == [("second", "denied", "clerk")]
        await until(lambda: all_done(bus.store))


async def all_done(store: Store) -> bool:
    return sum((await store.counts()).values()) == 1  # the dead letter
