"""How the bus shows who it is: token endpoints and services that check what they get, by code that
is not the bus's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote_plus, urlsplit

import pytest
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import ValidationError
from support.bus import running, url
from support.fake_build import FakeBuild

from esb.clock import Clock, current
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadReply, EsbError, Overloaded, Rejected, TimedOut, Unreachable
from esb_http.endpoint import CallerOptions, make_caller
from esb_web import ClientOptions, OutboundHeaders, WebClient, web_client

SECRET = "s3cr=t+of the bus"


@contextlib.asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """A server, whatever the path; its URL."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def client(build: FakeBuild | None = None, **options: Any) -> AsyncIterator[WebClient]:
    build = build or FakeBuild()
    try:
        yield web_client(build, ClientOptions.model_validate(options))
    finally:
        for shared in build.objects.values():
            if hasattr(shared, "close"):
                await shared.close()


class Login:
    """A token endpoint, and a service that takes its newest token only.

    said: what it answers instead. asked: forms it got; calls: statuses the service answered."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[dict[str, list[str]], str]] = []
        self.calls: list[int] = []
        self.bodies: list[bytes] = []
        self.given = 0
        self.life: Any = 3600
        self.said: tuple[int, str] | None = None
        self.refuses = False
        self.gate: asyncio.Event | None = None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/token":
            self.asked.append((parse_qs(body.decode()), request.headers.get("Authorization", "")))
            if self.gate is not None:
                await self.gate.wait()
            if self.said is not None:
                return web.Response(status=self.said[0], text=self.said[1])
            self.given += 1
            answer = {"access_token": f"token-{self.given}", "token_type": "Bearer"}
            return web.json_response(answer | ({"expires_in": self.life} if self.life else {}))
        right = f"Bearer token-{self.given}"
        status = 401 if self.refuses or request.headers.get("Authorization") != right else 200
        self.calls.append(status)
        self.bodies.append(body)
        return web.Response(status=status, text="x" * 10)


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    one = Login()
    async with serving(one) as one.url:
        yield one


def oauth2(login: Login, **more: Any) -> dict[str, Any]:
    given = {"token_url": f"{login.url}/token", "client_id": "bus", "client_secret": SECRET}
    return {"auth": {"oauth2": {**given, **more}}}


async def test_a_token_is_asked_for_once_and_shared(login: Login) -> None:
    build = FakeBuild()
    options = oauth2(login, scope="orders:read orders:write", audience="crm")
    async with client(build, **options) as one, client(build, **options) as other:
        replies = await asyncio.gather(
            *(c.request("POST", f"{login.url}/a", body=b"x") for c in (one, other) * 10)
        )
    assert {reply.status for reply in replies} == {200}
    [(form, authorization)] = login.asked
    assert form == {
        "grant_type": ["client_credentials"], "scope": ["orders:read orders:write"],
        "audience": ["crm"],
    }  # fmt: skip
    user, _, password = (
        base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
    )
    assert (user, unquote_plus(password)) == ("bus", SECRET)
    assert SECRET not in str(list(build.objects))


async def test_a_secret_may_go_in_the_form(login: Login) -> None:
    async with client(**oauth2(login, client_auth="body")) as one:
        assert (await one.request("GET", f"{login.url}/a")).status == 200
    [(form, authorization)] = login.asked
    assert (form["client_id"], form["client_secret"]) == (["bus"], [SECRET])
    assert authorization == ""


async def test_a_token_is_asked_for_again_shortly_before_it_ends(login: Login) -> None:
    now = 1000.0
    token = current.set(Clock(monotonic=lambda: now))
    try:
        async with client(**oauth2(login)) as one:
            for at, asked in ((0, 1), (3569, 1), (3571, 2)):
                now = 1000.0 + at
                assert (await one.request("GET", f"{login.url}/a")).status == 200
                assert len(login.asked) == asked
            login.life = None  # lasts until it is refused
            now += 3600
            await one.request("GET", f"{login.url}/a")
            now += 1e6
            await one.request("GET", f"{login.url}/a")
            assert len(login.asked) == 3
    finally:
        current.reset(token)


async def test_a_token_that_is_refused_is_replaced_and_the_request_sent_once_more(
    login: Login,
) -> None:
    async with client(**oauth2(login)) as one:
        await one.request("GET", f"{login.url}/a")
        login.given = 7  # those before are revoked
        replies = await asyncio.gather(
            *(one.request("POST", f"{login.url}/a", body=b"%d" % n) for n in range(8))
        )
        assert {reply.status for reply in replies} == {200}
        assert len(login.asked) == 2
        login.refuses = True
        before = len(login.calls)
        assert (await one.request("POST", f"{login.url}/a", body=b"x")).status == 401
        assert login.calls[before:] == [401, 401]


async def test_a_body_that_is_gone_is_not_sent_again(login: Login) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"once"

    async with client(**oauth2(login)) as one:
        await one.request("GET", f"{login.url}/a")
        login.given = 7
        reply = await one.request("POST", f"{login.url}/a", body=Body.from_stream(pieces(), ""))
        assert reply.status == 401
        assert login.bodies.count(b"once") == 1
        assert (await one.request("GET", f"{login.url}/a")).status == 200  # with another token


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, f'{{"error": "invalid_client", "error_description": "{SECRET}"}}', Rejected),
        (400, '{"error": "invalid_scope"}', Rejected),
        (404, "no such page " + SECRET, Rejected),
        (503, "later " + SECRET, Overloaded),
        (200, "<html>", BadReply),
        (200, "[]", BadReply),
        (200, '{"access_token": "a b", "token_type": "bearer"}', BadReply),
        (200, '{"access_token": "a\\r\\nX: y", "token_type": "bearer"}', BadReply),
        (200, '{"access_token": "ab", "token_type": "mac"}', BadReply),
    ],
)
async def test_what_a_token_endpoint_answers_instead_of_a_token(
    login: Login, status: int, text: str, kind: type[EsbError]
) -> None:
    login.said = status, text
    async with client(**oauth2(login)) as one:
        for _ in range(2):  # no failure is kept
            with pytest.raises(kind) as caught:
                await one.request("POST", f"{login.url}/a", body=b"x")
    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert SECRET not in told
    assert "/token" in told
    assert "/token" not in str(caught.value)
    assert login.calls == []
    if "invalid_client" in text:
        assert "invalid_client" in told
    assert len(login.asked) == 2


async def test_a_token_endpoint_that_is_away_or_silent(login: Login) -> None:
    options = oauth2(login, token_url="http://127.0.0.1:1/token")
    async with client(**options) as one:
        with pytest.raises(Unreachable):
            await one.request("POST", f"{login.url}/a", body=b"x")
    login.gate = asyncio.Event()
    async with client(**oauth2(login), timeout="50ms") as one:
        with pytest.raises(TimedOut):
            await one.request("POST", f"{login.url}/a", body=b"x")
    assert login.calls == []
    login.gate.set()


async def test_who_gives_up_takes_the_token_from_nobody(login: Login) -> None:
    login.gate = asyncio.Event()
    async with client(**oauth2(login)) as one:
        first = asyncio.create_task(one.request("GET", f"{login.url}/a"))
        second = asyncio.create_task(one.request("GET", f"{login.url}/a"))
        while not login.asked:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        login.gate.set()
        assert (await second).status == 200
        assert len(login.asked) == 1


def _pem(key: Any) -> str:
    return str(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_the_bus_may_sign_who_it_is(login: Login, algorithm: str) -> None:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(65537, 2048)
    )
    options = {"client_secret": None, "private_key": _pem(key), "algorithm": algorithm}
    async with client(**oauth2(login, **options, key_id="k1")) as one:
        assert (await one.request("GET", f"{login.url}/a")).status == 200
    [(form, authorization)] = login.asked
    assert authorization == ""
    assert form["client_assertion_type"] == [
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    ]
    parts = form["client_assertion"][0].split(".")
    header, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in parts)
    signed = ".".join(parts[:2]).encode()
    if algorithm == "ES256":
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
        key.public_key().verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
    else:
        key.public_key().verify(signature, signed, padding.PKCS1v15(), SHA256())
    assert json.loads(header) == {"alg": algorithm, "typ": "JWT", "kid": "k1"}
    told = json.loads(claims)
    assert (told["iss"], told["sub"], told["aud"]) == ("bus", "bus", f"{login.url}/token")
    assert 0 < told["exp"] - told["iat"] <= 60
    assert len(told["jti"]) > 16


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"bearer": "a", "api_key": {"key": "b"}},
        {"oauth2": {"token_url": "https://x/", "client_id": "a"}},
        {"oauth2": {"token_url": "https://x/", "client_id": "a", "client_secret": "b",
                    "private_key": "c"}},
        {"oauth2": {"token_url": "ftp://x/", "client_id": "a", "client_secret": "b"}},
        {"api_key": {"key": "a", "header": "Content-Length"}},
        {"hmac": {"secret": "a", "header": "a b"}},
        {"hmac": {"secret": "a", "form": "md5"}},
    ],
)  # fmt: skip
def test_credentials_that_are_none(auth: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClientOptions.model_validate({"auth": auth})


@pytest.mark.parametrize("auth", [
    {"oauth2": {"token_url": "https://x/", "client_id": "a", "private_key": "none at all"}},
    {"bearer": "a\r\nX: b"}, {"api_key": {"key": "a\r\nX: b"}},
])  # fmt: skip
async def test_credentials_that_cannot_be_used_are_told_at_load(auth: dict[str, Any]) -> None:
    from esb.adapter import BuildFailed

    with pytest.raises(BuildFailed) as caught:
        async with client(auth=auth):
            raise AssertionError
    assert "none at all" not in str(caught.value)


# --- keys and signatures -------------------------------------------------------------------------


class Seen:
    """A service that notes what it got."""

    def __init__(self) -> None:
        self.url = ""
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.method, self.path, self.body = request.method, request.raw_path, await request.read()
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        assert len(self.headers) == len(request.headers)  # none came twice
        return web.Response(text="ok")


@pytest.fixture
async def seen() -> AsyncIterator[Seen]:
    one = Seen()
    async with serving(one) as one.url:
        yield one


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"api_key": {"key": "the-key"}}, "X-API-Key"),
        ({"api_key": {"key": "the-key", "header": "Ocp-Key"}}, "Ocp-Key"),
        ({"hmac": {"secret": "s"}}, "X-Hub-Signature-256"),
    ],
)
async def test_what_a_caller_sends_under_the_name_of_a_credential_goes_nowhere(
    seen: Seen, auth: dict[str, Any], header: str
) -> None:
    options = CallerOptions.model_validate(
        {"url": seen.url, "auth": auth, "headers": {header: "an option"},
         "forward_headers": [header, "X-Other", "Authorization"]}
    )  # fmt: skip
    build = FakeBuild()
    caller = make_caller(options, build)
    headers = Headers([(header.lower(), "the caller's"), ("X-Other", "1")])
    await caller.call(Envelope(id="1", source="t", type="t", headers=headers))
    value = seen.headers[header.lower()]
    assert value not in ("the caller's", "an option")
    assert seen.headers["x-other"] == "1"
    for shared in build.objects.values():
        await shared.close()


async def test_a_body_is_signed_wherever_it_lies(seen: Seen, tmp_path: Path) -> None:
    large = bytes(range(256)) * 4096
    (tmp_path / "body").write_bytes(large)
    auth = {"hmac": {"secret": SECRET, "form": "stripe", "header": "Stripe-Signature"}}
    async with client(auth=auth) as one:
        for body in (b"", b"{}", large, Body.from_file(tmp_path / "body", "a/b"), None):
            await one.request("POST", f"{seen.url}/hook", body=body)
            told = dict(p.split("=") for p in seen.headers["stripe-signature"].split(","))
            payload = told["t"].encode() + b"." + seen.body
            right = hmac.new(SECRET.encode(), payload, hashlib.sha256).hexdigest()
            assert told["v1"] == right


async def test_a_body_that_is_signed_does_not_pass_as_it_arrives() -> None:
    fates: list[Any] = []

    class Noting(FakeBuild):
        def body(self, *more: str) -> Any:
            fates.append(more)
            return super().body()

    make_caller(CallerOptions.model_validate(
        {"url": "http://x/", "auth": {"hmac": {"secret": "s"}}}), Noting())  # fmt: skip
    assert fates == []
    make_caller(CallerOptions.model_validate(
        {"url": "http://x/", "auth": {"api_key": {"key": "k"}}}), Noting())  # fmt: skip
    assert fates == [("made", "sent")]


def signature_v4(seen: Seen, key: str, service: str) -> str:
    """The Authorization header that a request should have had, by the steps of AWS's description
    ("Create a signed AWS API request")."""
    parts = urlsplit(seen.path)
    authorization = seen.headers["authorization"]
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0]
    path = parts.path if service == "s3" else quote(parts.path, safe="/~")
    query = "&".join(sorted("=".join(one.partition("=")[::2]) for one in parts.query.split("&")))
    canonical = "\n".join([
        seen.method, path, query if parts.query else "",
        *(f"{name}:{' '.join(seen.headers[name].split())}" for name in signed.split(";")), "",
        signed, seen.headers.get("x-amz-content-sha256") or hashlib.sha256(seen.body).hexdigest(),
    ])  # fmt: skip
    time = seen.headers["x-amz-date"]
    scope = f"{time[:8]}/eu-central-1/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    made: bytes = f"AWS4{key}".encode()
    for part in (time[:8], "eu-central-1", service, "aws4_request"):
        made = hmac.new(made, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(made, text.encode(), hashlib.sha256).hexdigest()
    return (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={signed}, "
        f"Signature={signature}"
    )


@pytest.mark.parametrize("service", ["s3", "execute-api"])
@pytest.mark.parametrize("payload", ["signed", "unsigned"])
async def test_requests_to_aws_are_signed(
    seen: Seen, tmp_path: Path, service: str, payload: str
) -> None:
    (tmp_path / "body").write_bytes(b"in a file")
    auth = {"aws_sigv4": {
        "service": service, "region": "eu-central-1", "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": SECRET, "session_token": "temporary", "payload": payload,
    }}  # fmt: skip
    async with client(auth=auth) as one:
        for body in (None, b"in memory", Body.from_file(tmp_path / "body", "text/plain")):
            for path in ("/", "/bucket/a%20b%2Fc.txt", "/a?z=1&a=%20x&b"):
                await one.request(
                    "PUT", seen.url + path, body=body, headers=[("X-Amz-Meta-A", "1  2")]
                )
                assert seen.headers["authorization"] == signature_v4(seen, SECRET, service)
                assert "x-amz-meta-a" in seen.headers["authorization"]
                assert seen.headers["x-amz-security-token"] == "temporary"
                if payload == "unsigned":
                    assert seen.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
                elif service == "s3":
                    digest = hashlib.sha256(seen.body).hexdigest()
                    assert seen.headers["x-amz-content-sha256"] == digest


async def test_no_callers_authorization_goes_on_beside_a_token(login: Login) -> None:
    build = FakeBuild()
    options = ClientOptions.model_validate(
        {**oauth2(login), "headers": {"authorization": "Basic x"}, "forward_headers": True}
    )
    headers = OutboundHeaders(build, options)
    envelope = Envelope(
        id="1", source="t", type="t", headers=Headers([("Authorization", "Bearer caller")])
    )
    assert headers(envelope, "POST") == []


async def test_soap_services_get_tokens_as_well(login: Login, tmp_path: Path) -> None:
    wsdl = Path(__file__).parent.parent.parent / "examples" / "legacy" / "partner.wsdl"
    (tmp_path / "partner.wsdl").write_bytes(wsdl.read_bytes())
    text = f"""
        routes:
          ask:
            from: {{http: /ask}}
            steps:
              - call:
                  soap:
                    wsdl: partner.wsdl
                    operation: getPartner
                    url: {login.url}/soap
                    auth: {{oauth2: {{token_url: {login.url}/token, client_id: bus,
                                      client_secret: "{SECRET}"}}}}
    """
    async with running(text, tmp_path) as bus, ClientSession() as http:
        for _ in range(2):
            async with http.post(url(bus) + "/ask", json={"id": 1}) as reply:
                assert reply.status == 502  # what answers is no SOAP
            login.given += 1  # and from now on takes another token only
    assert login.calls == [200, 401, 200]
    assert all(b"getPartner" in body for body in login.bodies)
    assert len(login.asked) == 2
