"""Issuers of tokens that turn on whoever trusts them: what they answer keeps nobody waiting, fills
no memory and leads nowhere else. Real HTTP, raw answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import running, url
from support.fake_build import FakeBuild
from support.web import backend, read_request
from test_auth_tokens import RSA, ask, jwks, signed

from esb.auth import tokens
from esb.auth.tokens import JwtOptions, Keys
from esb.errors import EsbError, Unavailable
from esb.guessing import FREE
from esb_web import ClientOptions, WebClient, web_client

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


def whole(body: bytes, head: bytes = b"") -> bytes:
    return PLAIN + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bomb() -> bytes:
    """200 MB in 200 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()


ANSWERS: dict[str, Callable[[str], bytes]] = {
    "another place": lambda canary: (
        f"HTTP/1.1 302 Found\r\nLocation: {canary}/\r\nContent-Length: 0\r\n\r\n".encode()
    ),
    "another place for good": lambda canary: (
        f"HTTP/1.1 308 Permanent\r\nLocation: {canary}/\r\nContent-Length: 0\r\n\r\n".encode()
    ),
    "a refresh": lambda canary: whole(b"{}", f"Refresh: 0; url={canary}/\r\n".encode()),
    "a page": lambda canary: whole(b"<html>"),
    "nothing": lambda canary: whole(b""),
    "a list": lambda canary: whole(b"[]"),
    "a number": lambda canary: whole(b"1"),
    "null": lambda canary: whole(b"null"),
    "keys that are none": lambda canary: whole(b'{"keys": {"kty": "RSA"}}'),
    "a list of lists": lambda canary: whole(b'{"keys": [[[]]]}'),
    "no key at all": lambda canary: whole(b'{"keys": []}'),
    "JSON 100,000 deep": lambda canary: whole(b"[" * 100_000 + b"]" * 100_000),
    "no UTF-8": lambda canary: whole(b'{"keys": "\xff\xfe"}'),
    "20 MB": lambda canary: whole(b'{"keys": "' + b"a" * 20_000_000 + b'"}'),
    "20 MB without a length": lambda canary: PLAIN + b"\r\n" + b"a" * 20_000_000,
    "200 MB, packed": lambda canary: whole(bomb(), b"Content-Encoding: gzip\r\n"),
    "packed twice": lambda canary: whole(
        gzip.compress(gzip.compress(b"{}")), b"Content-Encoding: gzip, gzip\r\n"
    ),
    "broken packing": lambda canary: whole(b"\x1f\x8b\x08x", b"Content-Encoding: gzip\r\n"),
    "half of it": lambda canary: PLAIN + b'Content-Length: 100\r\n\r\n{"keys"',
    "no HTTP": lambda canary: b"220 mail.example ESMTP\r\n",
    "a head of 1 MB": lambda canary: PLAIN + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n{}",
    "5,000 headers": lambda canary: PLAIN + b"X: a\r\n" * 5000 + b"\r\n{}",
    "interim answers": lambda canary: b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000 + whole(b"{}"),
    "keys that are weak": lambda canary: whole(
        json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQ"}, {"kty": "oct", "k": "AA"}]})
        .encode()
    ),
    "a modulus of 900 kB": lambda canary: whole(
        json.dumps({"keys": [{"kty": "RSA", "n": "_" * 900_000, "e": "AQAB"}]}).encode()
    ),
    "20,000 keys that are none": lambda canary: whole(
        json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}] * 20_000})
        .encode()
    ),
}  # fmt: skip


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[WebClient]:
    build = FakeBuild()
    try:
        yield web_client(build, ClientOptions.model_validate(options))
    finally:
        for shared in build.objects.values():
            if hasattr(shared, "close"):
                await shared.close()


class Saying:
    """A server that answers what it is told, and keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await read_request(reader))[0])
        writer.write(self.answer)
        await writer.drain()


TEXT = """
auth:
  known: {jwt: {issuer: "https://login.example", audience: orders, jwks: keys.json}}
  asked: {jwt: {issuer: "ISSUER", audience: orders, WHERE}}
routes:
  who:
    from: {http: {path: /who, method: GET, auth: [known, asked]}}
    steps: [{set: {body: message.principal}}]
  other:
    from: {http: {path: /other, method: GET, auth: known}}
    steps: [{set: {body: message.principal}}]
"""


@pytest.mark.parametrize("where", ["about", "keys"])
async def test_what_an_issuer_answers(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is let in by it or blamed for it, and nobody else is asked."""
    monkeypatch.setattr(tokens, "_FAILED_WAIT", 0.0)
    (tmp_path / "keys.json").write_bytes(jwks(RSA))
    far, other = Saying(b""), Saying(whole(b"{}"))
    async with (
        backend(other) as canary, backend(far) as issuer, aiohttp.ClientSession() as http
    ):  # fmt: skip
        text = TEXT.replace("ISSUER", issuer)
        text = text.replace(", WHERE", "" if where == "about" else f', jwks: "{issuer}/keys"')
        async with running(text, tmp_path) as bus:
            for what, answer in ANSWERS.items():
                far.asked, far.answer = [], answer(canary)
                assert (await ask(http, url(bus), signed(iss=issuer)))[0] == 503, what
                assert far.asked, what
                assert (await ask(http, url(bus), signed()))[0] == 200, what
            assert other.asked == []


@pytest.mark.parametrize(
    "place",
    [
        "{canary}/keys", "http://169.254.169.254/latest/meta-data/", "http://login.example/keys",
        "file:///etc/passwd", "ftp://login.example/keys", "", "keys", "//localhost/keys",
        "https://", "HTTP://LOCALHOST:1/", "http://[::1]:1/", "gopher://127.0.0.1:6379/_FLUSHALL",
    ],
)  # fmt: skip
async def test_an_issuer_far_away_says_that_its_keys_are_on_this_machine(
    place: str, tmp_path: Path
) -> None:
    """Only one that is on this machine itself may have them here."""
    asked: list[str] = []
    async with backend(Saying(whole(b"{}"))) as canary:

        async def fetch(where: str) -> bytes:
            asked.append(where)
            told = {"issuer": "https://login.example", "jwks_uri": place.format(canary=canary)}
            return json.dumps(told).encode() if where.startswith("https:") else b"{}"

        options = JwtOptions(issuer="https://login.example", audience=["orders"])
        with pytest.raises(Unavailable):
            await Keys(options, fetch=fetch).find("RS256", None)
    assert asked == ["https://login.example/.well-known/openid-configuration"]


async def test_what_a_token_endpoint_answers() -> None:
    """No token, no request to the service, and nobody else is asked."""
    far, other = Saying(b""), Saying(whole(b"{}"))
    async with backend(other) as canary, backend(far) as login:
        given = {"token_url": f"{login}/token", "client_id": "bus", "client_secret": "a secret"}
        async with client(auth={"oauth2": given}) as one:
            for what, answer in ANSWERS.items():
                far.asked, far.answer = [], answer(canary)
                with pytest.raises(EsbError) as caught:
                    await one.request("GET", f"{canary}/a")
                assert "a secret" not in "\n".join([str(caught.value), *caught.value.notes]), what
                assert far.asked, what
    assert other.asked == []


async def test_who_is_known_by_the_second_way_is_not_locked_out_by_the_first(
    tmp_path: Path,
) -> None:
    """His token is no guess at the other issuer's."""
    (tmp_path / "keys.json").write_bytes(jwks(RSA))
    text = TEXT.replace("ISSUER", "https://other.example").replace("WHERE", "jwks: keys.json")
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
        for _ in range(FREE + 5):
            assert (await ask(http, url(bus), signed(iss="https://other.example")))[0] == 200
        answers = [
            (await ask(http, url(bus), signed(iss="https://nobody.example")))[0]
            for _ in range(FREE + 2)
        ]
        assert answers[0] == 401
        assert answers[-1] == 429
        assert (await ask(http, url(bus), signed(iss="https://other.example")))[0] == 200
