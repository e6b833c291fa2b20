"""Who calls, over real HTTP: each way to prove it, good and bad, and what routes then allow."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import argon2
import pytest
import trustme
from argon2 import PasswordHasher
from openapi_spec_validator import validate
from support.bus import load_text, running, url

from esb import renewed
from esb.auth import AnyOf
from esb.auth.keys import digest, new_key
from esb.auth.passwords import Basic, BasicOptions, UserFile
from esb.envelope import Headers
from esb.errors import Denied
from esb.guessing import FREE, Failures
from esb.identity import Credentials
from esb.renewed import Renewed
from esb_web.openapi import document

SECRET = "a secret of a hook"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def status(http: aiohttp.ClientSession, address: str, **asked: Any) -> int:
    method = asked.pop("method", "GET")
    async with http.request(method, address, **asked) as answer:
        await answer.read()
        return answer.status


def route(auth: str, rest: str = "") -> str:
    return f"""
auth: {auth}
routes:
  who:
    from: {{http: {{path: /who, method: [GET, POST], auth: it}}}}
    {rest}
    steps:
      - set: {{body: "{{'name': message.principal, 'roles': principal.roles}}"}}
"""


KEYS = "{it: {api_keys: {file: keys.yml}}}"


def keys(folder: Path, *entries: dict[str, Any]) -> None:
    file = folder / "keys.yml"
    new = folder / "new.yml"
    new.write_text(json.dumps({"keys": list(entries)}))
    new.replace(file)


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_is_known_and_no_other(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    key, sha256 = new_key()
    keys(tmp_path, {"name": "acme", "sha256": sha256, "roles": ["partner"]})
    async with running(route(KEYS), tmp_path) as bus:
        address = f"{url(bus)}/who"
        async with http.get(address, headers={"X-API-Key": key}) as answer:
            assert answer.status == 200
            assert await answer.json() == {"name": "acme", "roles": ["partner"]}
        assert await status(http, address, headers={"Authorization": f"Bearer {key}"}) == 200
        async with http.get(address) as answer:
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith('ApiKey realm="esb"')
            assert answer.content_type == "application/problem+json"
            assert (await answer.json())["type"] == "urn:esb:problem:denied"
        for wrong in (key[:-1], key + "x", sha256, key.upper(), "\u00e9"):
            assert await status(http, address, headers={"X-API-Key": wrong}) == 401
        assert await status(http, f"{address}?X-API-Key={key}") == 401
        twice = [("X-API-Key", "x"), ("X-API-Key", key)]
        assert await status(http, address, headers=twice) == 401


async def test_a_key_goes_no_further(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    key, sha256 = new_key()
    keys(tmp_path, {"name": "acme", "sha256": sha256})
    text = route("{it: {api_keys: {file: keys.yml, header: X-Pass}}}").replace(
        "'roles': principal.roles", "'left': headers['x-pass'] is defined"
    )
    async with (
        running(text, tmp_path) as bus,
        http.get(f"{url(bus)}/who", headers={"X-Pass": key}) as answer,
    ):
        assert await answer.json() == {"name": "acme", "left": False}


async def test_keys_that_are_over_or_not_yet_good(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    good, over, later = "a" * 40, "b" * 40, "c" * 40
    keys(
        tmp_path,
        {"name": "acme", "sha256": digest(good), "expires": "2999-01-01"},
        {"name": "acme", "sha256": digest(over), "expires": "2026-01-01T00:00:00Z"},
        {"name": "acme", "sha256": digest(later), "not_before": "2999-01-01"},
    )
    async with running(route(KEYS), tmp_path) as bus:
        address = f"{url(bus)}/who"
        seen = [await status(http, address, headers={"X-API-Key": k}) for k in (good, over, later)]
        assert seen == [200, 401, 401]


async def test_keys_rotate_while_the_bus_runs(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewed, "LOOK_EVERY", 0.0)
    old, new = "a" * 40, "b" * 40
    keys(tmp_path, {"name": "acme", "sha256": digest(old)})
    async with running(route(KEYS), tmp_path) as bus:
        address = f"{url(bus)}/who"

        async def seen() -> list[int]:
            return [await status(http, address, headers={"X-API-Key": k}) for k in (old, new)]

        assert await seen() == [200, 401]
        both = [{"name": "acme", "sha256": digest(key)} for key in (old, new)]
        keys(tmp_path, *both)
        assert await seen() == [200, 200]
        (tmp_path / "keys.yml").write_text("keys: [{name: acme")  # while somebody writes it
        assert await seen() == [200, 200]
        keys(tmp_path, both[1])
        assert await seen() == [401, 200]


# --- passwords ------------------------------------------------------------------------------------


def basic(name: str, password: str) -> dict[str, str]:
    shown = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {shown}"}


USERS = "{it: {basic: {users: users.yml}}}"


def users(folder: Path, **passwords: str) -> None:
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    entries = [
        {"name": name, "password": cheap.hash(password), "roles": ["clerk"]}
        for name, password in passwords.items()
    ]
    (folder / "users.yml").write_text(json.dumps({"users": entries}))


async def test_a_password_is_checked_once_and_then_remembered(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    users(tmp_path, ann="right", bob="other")
    checked: list[str] = []
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, expected: str, password: str) -> bool:
        checked.append(password)
        return verify(self, expected, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    async with running(route(USERS), tmp_path) as bus:
        address = f"{url(bus)}/who"
        for _ in range(3):
            assert await status(http, address, headers=basic("ann", "right")) == 200
        assert checked == ["right"]
        for name, password in (("ann", "wrong"), ("bob", "right"), ("eve", "right"), ("ann", "")):
            async with http.get(address, headers=basic(name, password)) as answer:
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == 'Basic realm="esb", charset="UTF-8"'
        # One that nobody has takes as long.
        assert checked == ["right", "wrong", "right", "right", ""]
        for malformed in ("Basic", "Basic !!", "Basic " + base64.b64encode(b"ann").decode()):
            assert await status(http, address, headers={"Authorization": malformed}) == 401


async def test_a_name_that_nobody_has_takes_as_long_as_one_that_somebody_has(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes of a file say what a check costs, not the library's present default."""
    users(tmp_path, ann="right")
    expected: list[str] = []
    verify = PasswordHasher.verify

    def noted(self: PasswordHasher, hash: str, password: str) -> bool:
        expected.append(hash)
        return verify(self, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", noted)
    async with running(route(USERS), tmp_path) as bus:
        for name in ("ann", "eve"):
            assert await status(http, f"{url(bus)}/who", headers=basic(name, "wrong")) == 401
        assert await status(http, f"{url(bus)}/who", headers=basic("eve", "right")) == 401
    somebody, *nobody = expected
    assert len(nobody) == 2
    for one in nobody:
        assert argon2.extract_parameters(one) == argon2.extract_parameters(somebody)
        assert one != somebody


# --- webhooks -------------------------------------------------------------------------------------


async def test_a_webhook_is_signed_over_the_very_bytes(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    auth = '{it: {hmac: {secret: ["${NEW}", "${OLD}"], roles: [hook]}}}'
    body = b'{"a":  1.0}'
    environ = {"NEW": "another secret", "OLD": SECRET}

    def signed(secret: str, body: bytes) -> dict[str, str]:
        made = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return {"X-Hub-Signature-256": f"sha256={made}"}

    async with running(route(auth), tmp_path, environ=environ) as bus:
        address = f"{url(bus)}/who"

        async def posted(body: bytes, **headers: str) -> int:
            return await status(http, address, method="POST", data=body, headers=headers)

        for secret in environ.values():
            assert await posted(body, **signed(secret, body)) == 200
        assert await posted(body.replace(b" ", b""), **signed(SECRET, body)) == 401
        assert await posted(body, **signed("a guess at it", body)) == 401
        assert await posted(body) == 401
        large = b"x" * 3_000_000  # one that is not here at once
        assert await posted(large, **signed(SECRET, large)) == 200
        assert await posted(large + b"y", **signed(SECRET, large)) == 401


async def test_a_webhook_with_a_time_is_taken_once(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    auth = '{it: {hmac: {secret: "${S}", form: stripe, header: Stripe-Signature}}}'

    def signed(when: float, body: bytes = b"{}") -> dict[str, str]:
        stamp = str(int(when))
        made = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={stamp},v1={made}"}

    async with running(route(auth), tmp_path, environ={"S": SECRET}) as bus:
        address = f"{url(bus)}/who"
        now = time.time()

        async def posted(headers: dict[str, str]) -> int:
            return await status(http, address, method="POST", data=b"{}", headers=headers)

        assert await posted(signed(now)) == 200
        assert await posted(signed(now)) == 401
        assert await posted(signed(now - 1)) == 200
        assert await posted(signed(now - 1000)) == 401
        assert await posted(signed(now + 1000)) == 401


# --- certificates ---------------------------------------------------------------------------------


def certificates(folder: Path) -> tuple[trustme.CA, trustme.CA]:
    """Who signed the listener's certificate, and who signs those of its callers."""
    ca, callers = trustme.CA(), trustme.CA()
    own = ca.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    callers.cert_pem.write_to_path(folder / "callers.pem")
    return ca, callers


async def certified(
    address: str, ca: trustme.CA, authority: trustme.CA | None = None, name: str = "", **asked: Any
) -> Any:
    """What is answered to a certificate that `authority` signed, or to none."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if authority is not None:
        authority.issue_cert(common_name=name).configure_cert(context)
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(address, **asked) as answer,
    ):
        return await answer.json() if answer.status == 200 else answer.status


TLS = "listen: {port: 0, tls: {cert: cert.pem, key: key.pem, client_ca: callers.pem%s}}\n"


async def test_machines_are_known_by_their_certificates(tmp_path: Path) -> None:
    ca, callers = certificates(tmp_path)
    text = route("{it: {mtls: {names: [press], roles: {press: [machine]}}}}") + TLS % ""
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/who"
        known = await certified(address, ca, callers, "press")
        assert known == {"name": "press", "roles": ["machine"]}
        assert await certified(address, ca, callers, "lathe") == 401
        for authority in (trustme.CA(), None):
            with pytest.raises(aiohttp.ClientError):
                await certified(address, ca, authority, "press")


async def test_some_show_a_certificate_and_others_a_key(tmp_path: Path) -> None:
    ca, callers = certificates(tmp_path)
    key, sha256 = new_key()
    keys(tmp_path, {"name": "acme", "sha256": sha256})
    ways = "{machines: {mtls: {names: [press]}}, it: {api_keys: {file: keys.yml}}}"
    text = (
        route(ways).replace("auth: it}", "auth: [machines, it]}")
        + TLS % ", client_certificate: optional"
    )
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/who"
        assert (await certified(address, ca, callers, "press"))["name"] == "press"
        shown = {"X-API-Key": key}
        assert (await certified(address, ca, headers=shown))["name"] == "acme"
        assert await certified(address, ca) == 401
        assert await certified(address, ca, headers={"X-API-Key": "x"}) == 401
        assert await certified(address, ca, callers, "lathe") == 401
        with pytest.raises(aiohttp.ClientError):
            await certified(address, ca, trustme.CA(), "press", headers=shown)


async def test_certificates_are_renewed_while_the_bus_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewed, "LOOK_EVERY", 0.0)
    old, callers = certificates(tmp_path)
    text = route("{it: {mtls: {}}}") + TLS % ""
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/who"
        assert (await certified(address, old, callers, "press"))["name"] == "press"
        before = (tmp_path / "key.pem").read_bytes()
        new, others = certificates(tmp_path)
        after = (tmp_path / "key.pem").read_bytes()
        (tmp_path / "key.pem").write_bytes(before)  # the other half is still to come
        assert (await certified(address, old, callers, "press"))["name"] == "press"
        (tmp_path / "key.pem").write_bytes(after)
        assert (await certified(address, new, others, "lathe"))["name"] == "lathe"
        for ca, authority in ((old, others), (new, callers)):
            with pytest.raises(aiohttp.ClientError):
                await certified(address, ca, authority, "press")


def test_whether_certificates_are_asked_for_needs_who_signs_them(tmp_path: Path) -> None:
    certificates(tmp_path)
    tls = "{cert: cert.pem, key: key.pem, client_certificate: optional}"
    text = route("{it: {mtls: {}}}") + f"listen: {{port: 0, tls: {tls}}}\n"
    found = [one.message for one in load_text(text, tmp_path).diagnostics]
    assert "'client_certificate' needs 'client_ca': who signs them" in found


def test_certificates_need_a_listener_that_asks_for_them(tmp_path: Path) -> None:
    found = load_text(route("{it: {mtls: {}}}"), tmp_path).diagnostics
    assert [one.message for one in found] == ["nobody is asked for a certificate"]


# --- several, and those who guess -----------------------------------------------------------------


async def test_any_of_several_will_do_and_all_are_offered(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    key, sha256 = new_key()
    keys(tmp_path, {"name": "acme", "sha256": sha256})
    users(tmp_path, ann="right")
    text = route("{one: {api_keys: {file: keys.yml}}, two: {basic: {users: users.yml}}}").replace(
        "auth: it", "auth: [one, two]"
    )
    async with running(text, tmp_path) as bus:
        address = f"{url(bus)}/who"
        async with http.get(address) as answer:
            offered = answer.headers.getall("www-authenticate")
            assert [one.split()[0] for one in offered] == ["ApiKey", "Basic"]
        assert await status(http, address, headers={"X-API-Key": key}) == 200
        assert await status(http, address, headers=basic("ann", "right")) == 200
        wrong = {**basic("ann", "wrong"), "X-API-Key": key}
        assert await status(http, address, headers=wrong) == 200
        document = await (await http.get(f"{url(bus)}/openapi.json", headers={"X-API-Key": key})
                          ).json()  # fmt: skip
        assert document["paths"]["/who"]["get"]["security"] == [{"one": []}, {"two": []}]
        assert document["components"]["securitySchemes"]["two"] == {
            "type": "http", "scheme": "basic",
        }  # fmt: skip


async def test_each_way_is_described_in_a_document_that_is_valid(tmp_path: Path) -> None:
    certificates(tmp_path)
    keys(tmp_path, {"name": "acme", "sha256": digest("k" * 40)})
    users(tmp_path, ann="right")
    text = """
    listen:
      port: 0
      tls: {cert: cert.pem, key: key.pem, client_ca: callers.pem, client_certificate: optional}
    auth:
      keys: {api_keys: {file: keys.yml, header: X-Key}}
      people: {basic: {users: users.yml}}
      tokens: {jwt: {issuer: "https://login.example", audience: a, secret: "%s"}}
      hooks: {hmac: {secret: "long enough a secret", header: X-Signed}}
      machines: {mtls: {}}
    routes:
      all: {from: {http: {path: /all, auth: [keys, people, tokens, machines]}}, steps: [log: a]}
      hook: {from: {http: {path: /hook, auth: hooks}}, steps: [log: a]}
      open: {from: {http: {path: /open, auth: public}}, steps: [log: a]}
    """ % ("s" * 40)
    async with running(text, tmp_path) as bus:
        web: Any = bus.shared.objects["web"]
        told = document(web.sites, url="", title="")
    validate(told)
    said = {path: item["post"].get("security") for path, item in told["paths"].items()}
    assert said == {
        "/all": [{"keys": []}, {"people": []}, {"tokens": []}, {"machines": []}],
        "/hook": [{"hooks": []}],
        "/open": None,
    }
    schemes = told["components"]["securitySchemes"]
    about = {
        name: (one["type"], one.get("scheme") or one.get("name")) for name, one in schemes.items()
    }
    assert about == {
        "keys": ("apiKey", "X-Key"), "people": ("http", "basic"), "tokens": ("http", "bearer"),
        "hooks": ("apiKey", "X-Signed"), "machines": ("mutualTLS", None),
    }  # fmt: skip
    assert "https://login.example" in schemes["tokens"]["description"]


async def test_who_guesses_has_to_wait(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    users(tmp_path, ann="right", bob="right")
    text = route(USERS) + "listen: {port: 0, trusted_proxies: [127.0.0.1]}\n"

    async def asked(name: str, password: str, address: str) -> tuple[int, int]:
        headers = {**basic(name, password), "X-Forwarded-For": address}
        async with http.get(f"{url(bus)}/who", headers=headers) as answer:
            return answer.status, int(answer.headers.get("retry-after", 0))

    async with running(text, tmp_path) as bus:
        for _ in range(FREE):
            assert (await asked("bob", "wrong", "192.0.2.1"))[0] == 401
        found, wait = await asked("ann", "right", "192.0.2.1")
        assert found == 429
        assert wait >= 1
        # His name has failed as often, so a guess from elsewhere is no better.
        assert (await asked("bob", "wrong", "192.0.2.2"))[0] == 429
        assert (await asked("ann", "right", "192.0.2.2"))[0] == 200


async def test_names_that_nobody_could_have_are_not_remembered(tmp_path: Path) -> None:
    """10,000 of them would be 230 MB."""
    file = Renewed("", [], lambda: UserFile(users=[]), lambda: UserFile(users=[]))
    failures = Failures()
    any_of = AnyOf([Basic("it", BasicOptions(users="users.yml"), file)], failures)
    for name in ("ann", "a" * 20_000):
        shown = Credentials(headers=Headers(basic(name, "x").items()), address="192.0.2.1")
        with pytest.raises(Denied):
            await any_of.authenticate(shown)
    assert [*failures._known] == ["user it ann", "it at 192.0.2.1"]


async def test_who_cannot_be_guessed_is_not_locked_out_by_others(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    keys(tmp_path, {"name": "acme", "sha256": digest("k" * 40)})
    async with running(route(KEYS), tmp_path) as bus:
        address = f"{url(bus)}/who"
        seen = [await status(http, address, headers={"X-API-Key": "x"}) for _ in range(FREE + 2)]
        assert (seen[0], seen[-1]) == (401, 429)
        assert await status(http, address, headers={"X-API-Key": "k" * 40}) == 200


# --- what routes allow ----------------------------------------------------------------------------


async def test_a_route_allows_by_role_method_and_path(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    names = ["reader", "writer", "owner"]
    keys(
        tmp_path,
        {"name": "reader", "sha256": digest("reader" * 9), "roles": ["read"]},
        {"name": "writer", "sha256": digest("writer" * 9), "scopes": ["a", "b"]},
        {"name": "owner", "sha256": digest("owner" * 9), "claims": {"tenant": "o-1"}},
    )
    text = """
auth: {it: {api_keys: {file: keys.yml}}}
routes:
  orders:
    from: {http: {path: "/orders/:id", method: [GET, POST, PUT, DELETE], auth: it}}
    allow:
      - {methods: GET, roles: [read, other]}
      - {methods: POST, scopes: [a, b]}
      - {methods: PUT, when: principal.claims.tenant == path.id}
    steps: [{set: {body: path.id}}]
"""
    async with running(text, tmp_path) as bus:

        async def seen(method: str, path: str) -> list[int]:
            return [
                await status(http, url(bus) + path, method=method, headers={"X-API-Key": name * 9})
                for name in names
            ]

        assert await seen("GET", "/orders/1") == [200, 403, 403]
        assert await seen("HEAD", "/orders/1") == [200, 403, 403]
        assert await seen("POST", "/orders/1") == [403, 200, 403]
        assert await seen("PUT", "/orders/o-1") == [403, 403, 200]
        assert await seen("PUT", "/orders/o-2") == [403, 403, 403]
        assert await seen("DELETE", "/orders/1") == [403, 403, 403]
        async with http.put(f"{url(bus)}/orders/o-2", headers={"X-API-Key": "owner" * 9}) as answer:
            told = await answer.json()
            assert told["detail"] == "the credentials are not enough for this"
            assert "tenant" not in json.dumps(told)


TRICKS = (
    "//orders/o-1", "/orders//o-1", "/orders/%6f-1", "/orders/o-1/", "/orders/o-1/.",
    "/orders/x/../o-1", "/orders/..;/o-1", "/orders/o-1;x", "/orders/o-1%2f", "/orders/o-1%00",
    "/orders/O-1", "/orders/o-1.", "/ORDERS/o-1", "/orders/o%2d1", "/orders/%2e%2e/o-1",
    "/orders/o-1%5c", "/orders/o-1?id=o-2", "/orders/o-1#x", "/orders/%256f-1", "/orders/o-1 ",
)  # fmt: skip


async def test_what_is_allowed_is_what_is_dispatched(tmp_path: Path) -> None:
    """However a path is written: whoever may see one order sees that or none."""
    keys(tmp_path, {"name": "ann", "sha256": digest("a" * 40), "claims": {"order": "o-1"}})
    text = """
auth: {it: {api_keys: {file: keys.yml}}}
routes:
  orders:
    from: {http: {path: "/orders/:id", method: GET, auth: it}}
    allow: principal.claims.order == path.id
    steps: [{set: {body: path.id}}]
"""
    async with running(text, tmp_path) as bus:
        port = int(url(bus).rpartition(":")[2])
        answered = 0
        for path in TRICKS:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {'a' * 40}\r\nX-Original-URL: "
                "/orders/o-1\r\nX-HTTP-Method-Override: GET\r\nConnection: close\r\n\r\n".encode()
            )
            answer = await reader.read()
            writer.close()
            head, _, body = answer.partition(b"\r\n\r\n")
            number = int(head.split()[1])
            assert number in (200, 400, 403, 404), (path, answer)
            if number == 200:
                answered += 1
                assert body == b'"o-1"', path
        assert answered >= 4


async def test_no_header_makes_a_principal(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    text = """
    routes:
      who:
        from: {http: {path: "/who", method: GET}}
        steps: [{set: {body: "{'p': message.principal, 'd': principal.name is defined}"}}]
    """
    names = ("principal", "X-Principal", "params.principal", "X-Forwarded-User", "Remote-User")
    async with (
        running(text, tmp_path) as bus,
        http.get(
            f"{url(bus)}/who?principal=admin", headers=dict.fromkeys(names, "admin")
        ) as answer,
    ):
        assert await answer.json() == {"p": "", "d": False}


# --- deny by default ------------------------------------------------------------------------------


def test_once_callers_are_known_nothing_is_open_that_does_not_say_so(tmp_path: Path) -> None:
    text = """
    auth: {it: {hmac: {secret: "${S}"}}}
    routes:
      said: {from: {http: {path: /a, auth: it}}, steps: [log: a]}
      open: {from: {http: {path: /b, auth: public}}, steps: [log: b]}
      forgotten: {from: {http: {path: /c}}, steps: [log: c]}
      misspelt: {from: {http: {path: /d, auth: its}}, steps: [log: d]}
    """
    found = load_text(text, tmp_path, environ={"S": SECRET}).diagnostics
    assert [(one.line, one.code, one.message) for one in found] == [
        (6, "auth", "it is not said who may call"),
        (7, "auth", "there is no 'its' in the section 'auth'"),
    ]
    assert found[1].hint == "did you mean 'it'?"


def test_what_the_listener_says_is_wrong_at_the_listener(tmp_path: Path) -> None:
    text = """
    auth: {it: {hmac: {secret: "${S}"}}}
    listen: {auth: its}
    routes:
      a: {from: {http: {path: /a}}, steps: [log: a]}
      b: {from: {http: {path: /b}}, steps: [log: b]}
    """
    found = load_text(text, tmp_path, environ={"S": SECRET}).diagnostics
    assert [(one.line, one.column, one.hint) for one in found] == [(3, 16, "did you mean 'it'?")]


def test_allow_needs_callers_that_are_known(tmp_path: Path) -> None:
    text = """
    routes:
      a: {from: {http: {path: /a}}, allow: {roles: [x]}, steps: [log: a]}
      b: {from: {http: {path: /b}}, allow: {methods: [GET]}, steps: [log: b]}
    """
    found = load_text(text, tmp_path).diagnostics
    assert [one.line for one in found] == [3, 4]
    assert found[0].message == "`allow` is about callers, and nobody is asked who he is"
    assert "it is not said who may" in found[1].message


def test_a_mistake_in_one_way_hides_none_in_another(tmp_path: Path) -> None:
    text = """\
auth:
  it: {api_keys: {file: gone.yml}}
  other: {jwt: {isuer: x}}
routes: {a: {from: {http: {path: /a, auth: other}}, steps: [log: a]}}
"""
    found = load_text(text, tmp_path).diagnostics
    assert {one.line for one in found} == {2, 3}
    assert any("gone.yml" in one.message for one in found)


def test_a_way_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "keys.yml").write_text("keys:\n- {name: a, sha256: abc}\n- {nam: b}\n")
    text = """
    auth:
      one: {api_keys: {file: keys.yml}}
      two: {jwt: {issuer: "http://login.example", audience: a}}
      three: {hmac: {secret: short}}
      four: {mtls: {}, hmac: {secret: 'long enough a secret'}}
      public: {mtls: {}}
    """
    found = load_text(text, tmp_path).diagnostics
    assert {(Path(one.file).name, one.line) for one in found} >= {
        ("routes.yaml", n) for n in (4, 5, 6)
    }
    told = load_text("auth: {one: {api_keys: {file: keys.yml}}}", tmp_path).diagnostics
    assert [(Path(one.file).name, one.line) for one in told][:2] == [
        ("keys.yml", 2),
        ("keys.yml", 3),
    ]
