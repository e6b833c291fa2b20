"""Signed tokens over real HTTP: those of an issuer, and those made to look like them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from support.bus import load_text, running, url

from esb.auth import tokens

RSA = RSAKey.generate_key(2048, parameters={"kid": "one"})
OTHER = RSAKey.generate_key(2048, parameters={"kid": "one"})
EC = ECKey.generate_key("P-256", parameters={"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", parameters={"kid": "ed"})
ISSUER = "https://login.example"
LOOSE = JWSRegistry(
    algorithms=["RS256", "ES256", "EdDSA", "HS256", "none", "RS512"], strict_check_header=False
)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": ISSUER, "aud": "orders", "sub": "ann", "exp": now + 300, "iat": now,
        "scope": "a b", "realm": {"roles": ["clerk"]},
    } | changes  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def signed(
    key: Any = RSA, alg: str = "RS256", header: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    head = {"alg": alg, "kid": "one", **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    return jwt.encode(head, claims(**changes), key, registry=LOOSE)


def forged(header: Mapping[str, Any], made: Mapping[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(made).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def by_secret(secret: bytes) -> str:
    """Signed as if what everybody knows were a secret."""
    token = forged({"alg": "HS256", "kid": "one"}, claims()).rstrip(".")
    made = hmac.new(secret, token.encode(), hashlib.sha256).digest()
    return f"{token}.{base64.urlsafe_b64encode(made).decode().rstrip('=')}"


def nested(depth: int) -> str:
    return base64.urlsafe_b64encode(b"[" * depth + b"]" * depth).decode().rstrip("=")


def by_key(payload: str) -> str:
    content = base64.urlsafe_b64decode(payload + "==")
    return jws.serialize_compact({"alg": "RS256", "kid": "one"}, content, RSA, registry=LOOSE)


def changed(token: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{forged({}, claims(sub='root')).split('.')[1]}.{signature}"


def project(options: str = "jwks: keys.json", allow: str = "") -> str:
    return f"""
auth:
  it:
    jwt: {{issuer: "{ISSUER}", audience: [orders, more], roles: realm.roles, {options}}}
routes:
  who:
    from: {{http: {{path: /who, method: GET, auth: it}}}}
    {allow}
    steps:
      - set:
          body: "{{'n': message.principal, 'r': principal.roles, 's': principal.scopes}}"
"""


async def ask(http: aiohttp.ClientSession, address: str, token: str) -> tuple[int, str]:
    shown = {"Authorization": f"Bearer {token}"}
    async with http.get(f"{address}/who", headers=shown) as answer:
        await answer.read()
        return answer.status, answer.headers.get("www-authenticate", "")


async def test_a_token_of_the_issuer_is_taken(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    (tmp_path / "keys.json").write_bytes(jwks(RSA, EC, ED))
    async with running(project(), tmp_path) as bus:
        shown = {"Authorization": f"bearer {signed()}"}
        async with http.get(f"{url(bus)}/who", headers=shown) as answer:
            assert await answer.json() == {"n": "ann", "r": ["clerk"], "s": ["a", "b"]}
        good = [
            signed(aud=["x", "more"]),
            signed(header={"typ": "at+jwt"}),
            signed(header={"typ": "application/at+jwt"}),
            signed(header={"kid": None}),
            signed(EC, "ES256", {"kid": "ec"}),
            signed(ED, "EdDSA", {"kid": "ed"}),
            # Where keys are is not for the token to say.
            signed(header={"jku": "http://127.0.0.1:1/", "x5u": "https://127.0.0.1:1/"}),
            signed(exp=int(time.time()) - 10),  # clocks differ
        ]
        for token in good:
            assert await ask(http, url(bus), token) == (200, "")


BAD = {
    "an algorithm of none": lambda: forged({"alg": "none"}, claims()),
    "an algorithm of None": lambda: forged({"alg": "None", "typ": "JWT"}, claims()),
    "no algorithm": lambda: forged({"typ": "JWT"}, claims()),
    "an algorithm that is no text": lambda: forged({"alg": ["RS256"]}, claims()),
    "the public key as a secret": lambda: by_secret(RSA.as_pem(private=False)),
    "an algorithm that is not listed": lambda: signed(alg="RS512"),
    "the key of somebody else": lambda: signed(OTHER),
    "a key of its own": lambda: signed(
        OTHER, header={"jwk": OTHER.as_dict(private=False), "kid": None}
    ),
    "the algorithm of another key": lambda: signed(EC, "ES256"),
    "a kid that is a path": lambda: signed(header={"kid": "../../../dev/null"}),
    "a kid that is a query": lambda: signed(header={"kid": "x' UNION SELECT 'a"}),
    "a kid that is no text": lambda: forged({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
    "an extension": lambda: forged({"alg": "RS256", "crit": ["exp"], "exp": 1}, claims(), b"x"),
    "an unencoded payload": lambda: forged(
        {"alg": "RS256", "b64": False, "crit": ["b64"]}, claims(), b"x"
    ),
    "another type": lambda: signed(header={"typ": "id_token+jwt"}),
    "a type that is no text": lambda: signed(header={"typ": "logout+jwt"}),
    "no issuer": lambda: signed(iss=None),
    "another issuer": lambda: signed(iss=ISSUER + "/"),
    "several issuers": lambda: signed(iss=[ISSUER]),
    "no audience": lambda: signed(aud=None),
    "another audience": lambda: signed(aud="orders2"),
    "audiences that are none": lambda: signed(aud=[["orders"]]),
    "an empty audience": lambda: signed(aud=[]),
    "no end": lambda: signed(exp=None),
    "an end long ago": lambda: signed(exp=int(time.time()) - 1000),
    "an end that is text": lambda: signed(exp="9999999999"),
    "an end that is true": lambda: signed(exp=True),
    "an end that never comes": lambda: signed(exp=float("nan")),
    "a beginning to come": lambda: signed(nbf=int(time.time()) + 1000),
    "made in the future": lambda: signed(iat=int(time.time()) + 1000),
    "no name": lambda: signed(sub=None),
    "a name that is no text": lambda: signed(upn=1, sub=""),
    "a changed payload": lambda: changed(signed()),
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "a great length": lambda: signed(x="x" * 20_000),
    "no JSON": lambda: "a.b.c",
    "a header too deep to read": lambda: nested(1500) + ".e30.x",
    "claims too deep to read": lambda: by_key(nested(3000)),
    "a name of two lines": lambda: signed(sub="ann\r\nroot"),
    "a name with half a surrogate pair": lambda: by_key(
        forged({}, claims(sub="\ud800")).split(".")[1]
    ),
    "an array": lambda: "W10.W10.W10",
    "encryption": lambda: "a.b.c.d.e",
}


async def test_what_only_looks_like_a_token_of_the_issuer_is_not_taken(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb.guessing.FREE", 1000)
    (tmp_path / "keys.json").write_bytes(jwks(RSA, EC))
    async with running(project(), tmp_path) as bus:
        seen = {what: (await ask(http, url(bus), make()))[0] for what, make in BAD.items()}
        assert {what: number for what, number in seen.items() if number != 401} == {}
        _, challenge = await ask(http, url(bus), BAD["no end"]())
        assert challenge == 'Bearer realm="esb", error="invalid_token"'
        shown = {"Authorization": f"Token {signed()}"}
        async with http.get(f"{url(bus)}/who", headers=shown) as answer:
            assert (answer.status, answer.headers["www-authenticate"]) == (
                401, 'Bearer realm="esb"',
            )  # fmt: skip
        twice = [("Authorization", f"Bearer {signed()}")] * 2
        async with http.get(f"{url(bus)}/who", headers=twice) as answer:
            assert answer.status in (400, 401)
        assert (await ask(http, url(bus), signed()))[0] == 200


async def test_a_shared_secret_is_for_its_own_algorithms(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    secret = "s" * 32
    text = project('secret: "${S}"')
    async with running(text, tmp_path, environ={"S": secret}) as bus:
        key = OctKey.import_key(secret)
        assert (await ask(http, url(bus), signed(key, "HS256")))[0] == 200
        other = OctKey.import_key("t" * 32)
        assert (await ask(http, url(bus), signed(other, "HS256")))[0] == 401
        assert (await ask(http, url(bus), signed()))[0] == 401


async def test_a_key_that_does_not_fit_hides_none_that_does(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    others = [ECKey.generate_key("P-384"), OKPKey.generate_key("X25519")]
    (tmp_path / "keys.json").write_bytes(jwks(*others, EC, ED))
    async with running(project(), tmp_path) as bus:
        for token in (signed(EC, "ES256", {"kid": None}), signed(ED, "EdDSA", {"kid": None})):
            assert await ask(http, url(bus), token) == (200, "")


@pytest.mark.filterwarnings("ignore:Key size")
async def test_keys_that_prove_nothing_are_left_out(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    short = RSAKey.generate_key(1024)
    known = [EC.as_dict(private=True), short.as_dict(private=False)]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": known}))
    assert "there is no public key in it" in str(load_text(project(), tmp_path).diagnostics)
    file.write_text(json.dumps({"keys": [*known, RSA.as_dict(private=False)]}))
    async with running(project(), tmp_path) as bus:
        assert (await ask(http, url(bus), signed(EC, "ES256", {"kid": None})))[0] == 401
        assert (await ask(http, url(bus), signed()))[0] == 200
    file.write_text('{"keys": ' + "[" * 100_000)
    assert "it is no JWK Set" in str(load_text(project(), tmp_path).diagnostics)


def test_options_that_would_confuse_keys_and_secrets_are_refused(tmp_path: Path) -> None:
    def told(options: str) -> str:
        found = load_text(project(options), tmp_path).diagnostics
        return " ".join(str(one) for one in found)

    (tmp_path / "keys.json").write_bytes(jwks(RSA))
    assert "HS256 needs a `secret`" in told("jwks: keys.json, algorithms: [HS256]")
    assert "not both" in told(f"jwks: keys.json, secret: {'s' * 32}")
    assert "at least 32 bytes" in told("secret: short")
    assert "needs public keys" in told(f"secret: {'s' * 32}, algorithms: [RS256]")
    assert "must be one of" in told("jwks: keys.json, algorithms: [none]")
    assert "by https alone" in told('jwks: "http://login.example/keys"')
    (tmp_path / "keys.json").write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}')
    assert "there is no public key in it" in told("jwks: keys.json")


# --- keys of an issuer ----------------------------------------------------------------------------


class Issuer:
    """One that says where his keys are, and renews them."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA]
        self.asked: list[str] = []
        self.up = True
        self.url = ""
        self.called = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if not self.up:
            raise web.HTTPServiceUnavailable
        if request.path == "/.well-known/openid-configuration":
            return web.json_response(
                {"issuer": self.called or self.url, "jwks_uri": f"{self.url}/keys"}
            )
        return web.Response(body=jwks(*self.keys), content_type="application/json")


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()


async def test_keys_are_found_kept_and_renewed(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuing() as issuer:
        text = project().replace(ISSUER, issuer.url).replace("jwks: keys.json", "")

        def by(key: Any, kid: str) -> str:
            return signed(key, header={"kid": kid}, iss=issuer.url)

        async with running(text, tmp_path) as bus:
            asked = [ask(http, url(bus), by(RSA, "one")) for _ in range(10)]
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
            assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
            new = RSAKey.generate_key(2048, parameters={"kid": "two"})
            issuer.keys = [new]
            # Just now they were looked for, so an unknown kid is no reason to look again.
            for number in range(5):
                assert (await ask(http, url(bus), by(new, f"guess-{number}")))[0] == 401
            assert len(issuer.asked) == 2
            monkeypatch.setattr(tokens, "_NOT_AGAIN", 0.0)
            assert (await ask(http, url(bus), by(new, "two")))[0] == 200
            assert len(issuer.asked) == 4
            assert (await ask(http, url(bus), by(RSA, "one")))[0] == 401
            # Who is known goes on being known while the issuer is away.
            issuer.up = False
            assert (await ask(http, url(bus), by(new, "two")))[0] == 200


async def test_without_keys_nobody_is_let_in_and_nobody_is_blamed(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with issuing() as issuer:
        issuer.up = False
        text = project().replace(ISSUER, issuer.url).replace("jwks: keys.json", "")
        async with running(text, tmp_path) as bus:
            for _ in range(20):
                assert (await ask(http, url(bus), signed(iss=issuer.url)))[0] == 503
            assert len(issuer.asked) < 5


async def test_an_issuer_that_is_called_otherwise_is_not_believed(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with issuing() as issuer:
        issuer.called = "https://somebody.example"
        text = project().replace(ISSUER, issuer.url).replace("jwks: keys.json", "")
        async with running(text, tmp_path) as bus:
            assert (await ask(http, url(bus), signed(iss=issuer.url)))[0] == 503
            assert issuer.asked == ["/.well-known/openid-configuration"]
