"""All that a bus serves, walked: where callers are known, what does not say it is open is not."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import validate
from support.bus import load_text, running, store_of, url
from support.peers import HERE
from support.waiting import until

from esb import guessing
from esb.admin import admin_api
from esb.auth.keys import digest
from esb.bus import Bus, Shared
from esb.cli import app
from esb.commands.asking import There
from esb.durable import DEAD
from esb.identity import PUBLIC
from esb.service import Service
from esb_web import Response, Site
from esb_web.door import door

KEY = "k" * 40
WSDL = HERE.parent / "calculator.wsdl"

PROJECT = """
listen: {port: 0, auth: it}
auth: {it: {api_keys: {file: keys.yml}}}
expose:
  calc: {wsdl: calculator.wsdl, at: /calc}
  open: {wsdl: calculator.wsdl, at: /open-calc, callers: public}
routes:
  plain: {from: {http: {path: "/plain/:id", method: [GET, POST, PUT]}}, steps: [log: a]}
  rest: {from: {http: {path: "/rest/*more", method: DELETE}}, steps: [log: a]}
  durable: {from: {http: /durable}, accept: durable, steps: [log: a]}
  status: {from: {http: {path: /s, status_path: "/s/:id"}}, accept: durable, steps: [log: a]}
  hosted: {from: {soap: {wsdl: calculator.wsdl, path: /hosted}}, steps: [log: a]}
  token:
    from: {soap: {wsdl: calculator.wsdl, path: /token, security: {users: {ann: right}}}}
    steps: [log: a]
  open: {from: {http: {path: /open, method: GET, auth: public}}, steps: [log: a]}
  queue: {from: {queue: q}, steps: [log: a]}
"""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(WSDL, tmp_path / "calculator.wsdl")
    keys = [
        {"name": "acme", "sha256": digest(KEY)},
        {"name": "ann", "sha256": digest("r" * 40), "roles": ["reader"]},
        {"name": "op", "sha256": digest("o" * 40), "roles": ["operator"]},
    ]
    (tmp_path / "keys.yml").write_text(json.dumps({"keys": keys}))
    return tmp_path


def served(bus: Bus) -> list[tuple[str, str]]:
    """Every method and path of the listener, pages about it included."""
    web: Any = bus.shared.objects["web"]
    found = []
    apis = {""}
    for site in web.sites:
        path = re.sub(r"/[:*]\w+", "/x", site.path)
        found += [(method, path) for method in site.methods]
        found += [("HEAD", path)] if "GET" in site.methods else []
        apis.add(site.api)
    found += [("GET", f"{api}/{name}") for api in apis for name in ("docs", "openapi.json")]
    return [*found, ("GET", "/"), ("GET", "/docs/start.js"), ("GET", "/docs/assets/swagger-ui.css")]


async def test_nothing_is_open_that_does_not_say_so(
    folder: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "FREE", 10_000)  # or a pause would look like a closed door
    async with running(PROJECT, folder) as bus:
        everything = served(bus)
        assert len(everything) > 25
        opened = set()
        for method, path in everything:
            for shown in ({}, {"X-API-Key": "guess"}, {"Authorization": "Bearer guess"}):
                async with http.request(method, url(bus) + path, headers=shown) as answer:
                    await answer.read()
                    if answer.status != 401:
                        opened.add(path)
        assert {path for path in opened if not path.startswith("/open-calc/")} == {
            "/open", "/token",  # which has asked for a UsernameToken
        }  # fmt: skip


async def test_with_a_key_all_of_it_is_there(folder: Path, http: aiohttp.ClientSession) -> None:
    async with running(PROJECT, folder) as bus:
        for method, path in served(bus):
            headers = {"X-API-Key": KEY}
            async with http.request(method, url(bus) + path, headers=headers) as answer:
                await answer.read()
                assert answer.status not in (401, 403, 429), (method, path)


async def test_a_site_that_forgot_to_say_who_may_call_is_closed(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    async def answer(_: Any) -> Response:
        return Response(200)

    async with running(PROJECT, folder) as bus:
        web: Any = bus.shared.objects["web"]
        web.mount(Site(path="/new", methods=("GET",), handler=answer))
        async with http.get(f"{url(bus)}/new", headers={"X-API-Key": KEY}) as found:
            assert found.status == 401
        web.mount(Site(path="/new", methods=("GET",), handler=answer, auth=PUBLIC))
        async with http.get(f"{url(bus)}/new") as found:
            assert found.status == 200


async def test_probes_tell_strangers_no_details(folder: Path, http: aiohttp.ClientSession) -> None:
    async with running(PROJECT, folder) as bus:
        for name in ("healthz", "readyz"):
            async with http.get(f"{url(bus)}/{name}") as answer:
                assert list(await answer.json()) == ["status"]


async def test_documents_say_who_may_call(folder: Path, http: aiohttp.ClientSession) -> None:
    async with (
        running(PROJECT, folder) as bus,
        http.get(f"{url(bus)}/openapi.json", headers={"X-API-Key": KEY}) as answer,
    ):
        document = await answer.json()
        scheme = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        assert document["components"]["securitySchemes"] == {"it": scheme}
        for path, item in document["paths"].items():
            for operation in item.values():
                said = operation.get("security")
                assert said == (None if path.startswith("/open") else [{"it": []}]), path


async def test_a_browser_is_shown_where_to_enter_a_key(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    text = PROJECT.replace("listen: {port: 0, auth: it}", "listen: {port: 0, auth: [staff, it]}")
    text = text.replace("auth: {it:", "auth: {staff: {basic: {users: users.yml}}, it:")
    (folder / "users.yml").write_text("users: []")
    html, key = {"Accept": "text/html,*/*"}, {"X-API-Key": KEY}
    async with running(text, folder) as bus:
        for path in ("/", "/docs", "/calc/docs"):
            async with http.get(url(bus) + path, headers=html) as answer:
                page = await answer.text()
                assert (answer.status, answer.content_type) == (401, "text/html")
                assert 'data-header="X-API-Key"' in page
                assert len(answer.headers.getall("www-authenticate")) == 2
                [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
                digest_of = base64.b64encode(sha256(script.encode()).digest()).decode()
                policy = answer.headers["content-security-policy"]
                assert f"script-src 'sha256-{digest_of}' 'strict-dynamic'; " in policy
            async with http.get(url(bus) + path, headers={**html, **key}) as answer:
                assert answer.status == 200
                assert answer.content_type == "text/html"
        # Programs are told as ever, and so is whoever calls what is served.
        for path, more in (("/docs", {}), ("/openapi.json", {}), ("/plain/1", html)):
            async with http.get(url(bus) + path, headers=more) as answer:
                assert (answer.status, answer.content_type) == (401, "application/problem+json")


def test_what_is_entered_at_the_door_is_a_key_or_a_token() -> None:
    key = {"type": "apiKey", "in": "header", "name": 'X-"K"'}
    signed = {**key, "x-signs": "body"}
    schemes = {'<"a': key, "b": {"type": "http", "scheme": "bearer"}, "c": signed}
    page = door(schemes).decode()
    assert re.findall(
        r'data-scheme="([^"]*)" data-header="([^"]*)" data-before="([^"]*)"', page
    ) == [
        ("&lt;&quot;a", "X-&quot;K&quot;", ""),
        ("b", "Authorization", "Bearer "),
    ]
    assert b"<form" not in door({"c": {"type": "mutualTLS"}, "d": signed})
    assert b"name and a password" in door({"c": {"type": "http", "scheme": "basic"}})


async def test_what_became_of_a_message_is_told_to_its_sender_alone(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    async with running(PROJECT, folder) as bus:
        async with http.post(f"{url(bus)}/s", headers={"X-API-Key": KEY}) as answer:
            told = (await answer.json())["status_url"]
            assert answer.status == 202
        for key, expected in ((KEY, 200), ("r" * 40, 404), ("guess", 401)):
            async with http.get(url(bus) + told, headers={"X-API-Key": key}) as answer:
                assert answer.status == expected


# --- policies of routes that are no HTTP ----------------------------------------------------------


async def test_what_is_accepted_has_been_allowed_and_keeps_its_sender(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    text = """
    listen: {port: 0, auth: it}
    auth: {it: {api_keys: {file: keys.yml}}}
    routes:
      in:
        from: {http: /in}
        allow: {roles: [operator]}
        accept: durable
        steps:
          - set: {body: "{'who': principal.name, 'roles': principal.roles}"}
          - send: {queue: out}
      fed:
        from: {queue: out}
        allow: {roles: [operator]}
        steps: [{send: {queue: end}}]
    """
    async with running(text, folder) as bus:
        for key, expected in (("r" * 40, 403), ("o" * 40, 202)):
            async with http.post(f"{url(bus)}/in", headers={"X-API-Key": key}) as answer:
                assert answer.status == expected
        store = store_of(bus)

        async def counts() -> set[str]:
            return {*await store.counts()} & {"queue:end", DEAD}

        assert await until(counts) == {"queue:end"}


async def test_a_hosted_service_answers_in_faults(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    async with running(PROJECT, folder) as bus:
        headers = {"Content-Type": "text/xml"}
        for path in ("/hosted", "/hosted?wsdl"):
            async with http.post(url(bus) + path, data="<x/>", headers=headers) as answer:
                assert answer.status == 401
                assert answer.headers["www-authenticate"].startswith("ApiKey")
                assert answer.content_type == "text/xml"
                assert "credentials are needed" in await answer.text()


# --- the admin API --------------------------------------------------------------------------------


def test_away_from_this_machine_the_admin_api_has_to_know_who_asks(folder: Path) -> None:
    auth = "auth: {it: {api_keys: {file: keys.yml}}}\n"

    def told(admin: str) -> list[str]:
        return [one.message for one in load_text(f"{auth}admin: {admin}", folder).diagnostics]

    wrong = ["whoever reaches 0.0.0.0 could see and change everything"]
    assert told("{host: 0.0.0.0}") == wrong
    assert told("{host: 0.0.0.0, auth: public}") == wrong
    assert told("{host: 0.0.0.0, enabled: false}") == []
    assert told("{host: 0.0.0.0, auth: it}") == []
    auth = 'auth: {it: {hmac: {secret: "long enough a secret"}}}\n'
    assert told("{auth: it}") == ["neither signed bodies nor certificates are looked at here"]
    assert told("{host: '::1'}") == told("{host: localhost}") == told("{host: 127.0.0.9}") == []


@asynccontextmanager
async def admin(folder: Path, text: str) -> AsyncIterator[tuple[Service, str]]:
    file = folder / "routes.yaml"
    file.write_text(text)
    service = Service([file], root=folder)
    await service.admin.open()
    await service.bus.start()
    try:
        yield service, f"http://127.0.0.1:{service.admin.port}"
    finally:
        await service.admin.close()
        await service.bus.stop()


ADMIN = """
listen: {port: 0}
admin: {port: 0, auth: it}
auth: {it: {api_keys: {file: keys.yml}}}
versions: {keep: 0}
routes: {open: {from: {http: {path: /open, auth: public}}, steps: [log: a]}}
"""


async def test_every_path_of_the_admin_api_asks_who_it_is(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    api: Any = admin_api(Bus([], Shared()), None)
    paths = api.openapi()["paths"]
    assert len(paths) > 15
    async with admin(folder, ADMIN) as (_, address):
        asked = [(m.upper(), p) for p, item in paths.items() for m in item]
        asked += [("GET", p) for p in ("/", "/metrics", "/openapi.json", "/docs", "/nothing")]
        for method, path in asked:
            for base in ("", "/admin"):
                async with http.request(
                    method, address + base + re.sub(r"\{[^}]*\}", "1", path), json={}
                ) as answer:
                    assert answer.status == 401, (method, path)
                    assert "www-authenticate" in answer.headers
        for name in ("healthz", "readyz"):
            async with http.get(f"{address}/{name}") as answer:
                assert answer.status == 200
                assert list(await answer.json()) == ["status"]


async def test_readers_look_and_operators_change(folder: Path, http: aiohttp.ClientSession) -> None:
    async with admin(folder, ADMIN) as (service, address):

        async def seen(key: str, method: str, path: str, **more: str) -> int:
            headers = {"X-API-Key": key, **more}
            async with http.request(method, address + path, headers=headers) as answer:
                await answer.read()
                return answer.status

        for key, look, change in ((KEY, 403, 403), ("r" * 40, 200, 403), ("o" * 40, 200, 200)):
            assert await seen(key, "GET", "/routes") == look
            assert await seen(key, "GET", "/metrics") == look
            async with http.get(f"{address}/readyz", headers={"X-API-Key": key}) as answer:
                assert answer.status == 200
                assert ("routes" in await answer.json()) == (look == 200)
            assert await seen(key, "POST", "/routes/open/stop") == change
        assert service.bus.stopped == {"open"}
        # A page that somebody has open cannot ask in his name.
        evil = {"Origin": "https://evil.example"}
        assert await seen("o" * 40, "POST", "/routes/open/start", **evil) == 403


async def test_its_document_says_who_may(folder: Path, http: aiohttp.ClientSession) -> None:
    text = ADMIN.replace("auth: it}\n", "auth: [it, ann], readers: [auditor, reader]}\n").replace(
        "auth: {it:", "auth: {ann: {basic: {users: users.yml}}, it:"
    )
    (folder / "users.yml").write_text("users: []")
    key = {"X-API-Key": "o" * 40}
    async with (
        admin(folder, text) as (_, address),
        http.get(f"{address}/openapi.json", headers=key) as answer,
    ):
        document = await answer.json()
    validate(document)
    assert document["components"]["securitySchemes"] == {
        "it": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "ann": {"type": "http", "scheme": "basic"},
    }
    for path, item in document["paths"].items():
        for method, operation in item.items():
            roles = ["auditor", "operator", "reader"] if method == "get" else ["operator"]
            expected = [{name: [role]} for name in ("it", "ann") for role in roles]
            assert operation["security"] == expected, (method, path)


async def test_where_nobody_is_asked_its_document_says_nothing_of_it(
    folder: Path, http: aiohttp.ClientSession
) -> None:
    async with (
        admin(folder, ADMIN.replace(", auth: it}\n", "}\n")) as (_, address),
        http.get(f"{address}/openapi.json") as answer,
    ):
        document = await answer.json()
    assert "securitySchemes" not in document["components"]
    assert not any(
        "security" in one for item in document["paths"].values() for one in item.values()
    )


async def test_who_cannot_be_looked_at_is_answered_and_told_of(
    folder: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with admin(folder, ADMIN.replace("versions:", "audit: {file: audit.log}\nversions:")) as (
        service,
        address,
    ):

        async def broken(_: Any) -> None:
            raise ZeroDivisionError("inside of a way to prove who one is")

        monkeypatch.setattr(service.project.operators, "authenticate", broken)
        async with http.post(f"{address}/reload") as answer:
            assert (answer.status, answer.content_type) == (500, "application/json")
            assert "inside" not in await answer.text()
        async with http.get(f"{address}/readyz") as answer:
            assert (answer.status, list(await answer.json())) == (200, ["status"])
    assert '"POST /reload"' in (folder / "audit.log").read_text()


async def test_commands_show_who_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(folder, ADMIN) as (_, address):
        with pytest.raises(Exception, match="wants to know who asks"):
            await There(address).ask("GET", "/routes")
        monkeypatch.setenv("ESB_ADMIN_TOKEN", "r" * 40)
        assert (await There(address).ask("GET", "/routes")).status == 200


async def test_who_acted_is_who_the_key_is_of(
    folder: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with admin(folder, ADMIN) as (service, address):
        seen: list[str] = []

        async def reload(by: str = "", cause: str = "reload") -> dict[str, Any]:
            seen.append(by)
            return {"reloaded": True}

        monkeypatch.setattr(service, "reload", reload)
        async with http.post(
            f"{address}/reload", json={"by": "somebody else"}, headers={"X-API-Key": "o" * 40}
        ) as answer:
            assert answer.status == 200
        assert seen == ["op"]


# --- what files hold ------------------------------------------------------------------------------


def test_commands_make_what_the_files_hold(folder: Path) -> None:
    from typer.testing import CliRunner

    runner = CliRunner()
    made = runner.invoke(app, ["auth", "key", "acme", "--role", "a", "--expires", "2999-01-31"])
    key = re.search(r"esb_[\w-]+", made.stderr)
    assert key is not None
    assert digest(key[0]) in made.stdout
    assert key[0] not in made.stdout
    (folder / "keys.yml").write_text(f"keys:\n{made.stdout}")
    hashed = runner.invoke(app, ["auth", "password", "ann", "--role", "b"], input="right\n")
    assert "right" not in hashed.stdout
    (folder / "users.yml").write_text(f"users:\n{hashed.stdout}")
    text = "auth: {a: {api_keys: {file: keys.yml}}, b: {basic: {users: users.yml}}}"
    assert load_text(text, folder).diagnostics == []
    wrong = runner.invoke(app, ["auth", "key", "acme", "--expires", "tomorrow"])
    assert wrong.exit_code == 1
