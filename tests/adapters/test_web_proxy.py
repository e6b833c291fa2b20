"""Out through a forward proxy: tunnels, passwords, exceptions, and our own authorities."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError
from support.fake_build import FakeBuild
from support.forward_proxy import forward_proxy
from support.peers import HERE
from support.soap import GET, hosted, soap
from support.web import backend, read_request

from esb.adapter import BuildFailed
from esb.envelope import Body, Envelope, Headers
from esb.errors import Rejected, Unreachable
from esb_soap import adapter as soap_adapter
from esb_web import ClientOptions, WebClient, error_of, web_client
from esb_web.proxy import Proxies, Server, parse_proxy, proxies


@contextlib.asynccontextmanager
async def client(build: FakeBuild | None = None, **options: Any) -> AsyncIterator[WebClient]:
    build = build or FakeBuild()
    try:
        yield web_client(build, ClientOptions.model_validate(options))
    finally:
        for shared in build.objects.values():
            await shared.close()


class Far:
    """A far side that keeps the headers it gets."""

    def __init__(self) -> None:
        self.got: list[Headers] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, body = await read_request(reader)
        self.got.append(headers)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return ca


def server_tls(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_plain_http_goes_to_the_proxy_with_its_password() -> None:
    far = Far()
    async with (
        backend(far) as url,
        forward_proxy({"crm.example": port_of(url)}, "ann:s3cret") as (proxy, at),
        client(proxy=f"http://ann:s3cret@{at}", auth={"bearer": "token"}) as web,
    ):
        reply = await web.request("POST", "http://crm.example/orders?a=1", body=b"hello")
        assert reply.body == b"hello"
        assert proxy.seen == ["POST http://crm.example/orders?a=1 HTTP/1.1"]
    [headers] = far.got
    assert headers.get("host") == "crm.example"
    assert headers.get("authorization") == "Bearer token"
    assert "proxy-authorization" not in headers


async def test_https_goes_through_a_tunnel_and_is_verified_at_its_end(
    tmp_path: Path, authority: trustme.CA
) -> None:
    far = Far()
    tls = server_tls(authority, "crm.example")
    build = FakeBuild(tmp_path)
    async with (
        backend(far, tls) as url,
        forward_proxy(
            {"crm.example": port_of(url), "other.example": port_of(url)}, "ann:s3%cret"
        ) as (proxy, at),
    ):
        through = {"proxy": f"http://ann:s3%25cret@{at}"}
        async with client(build, tls={"ca": "ca.pem"}, **through) as web:
            reply = await web.request("POST", "https://crm.example/orders", body=b"hello")
            assert reply.body == b"hello"
            assert proxy.seen == ["CONNECT crm.example:443 HTTP/1.1"]
            # A proxy that leads elsewhere is found out.
            with pytest.raises(Unreachable, match="TLS"):
                await web.request("GET", "https://other.example/")
        async with client(FakeBuild(tmp_path), **through) as web:
            with pytest.raises(Unreachable, match="TLS"):
                await web.request("GET", "https://crm.example/")
    [headers] = far.got
    assert "proxy-authorization" not in headers, "the far side learns nothing of the proxy"


async def test_the_proxy_itself_may_speak_tls(tmp_path: Path, authority: trustme.CA) -> None:
    far, safe = Far(), Far()
    async with (
        backend(far) as url,
        backend(safe, server_tls(authority, "crm.example")) as safe_url,
        forward_proxy(
            {"far.example": port_of(url), "crm.example": port_of(safe_url)},
            tls=server_tls(authority, "localhost"),
        ) as (proxy, at),
        client(
            FakeBuild(tmp_path), proxy=f"https://localhost:{port_of(at)}", tls={"ca": "ca.pem"}
        ) as web,
    ):
        for target in ("http://far.example/", "https://crm.example/"):
            assert (await web.request("POST", target, body=b"hello")).body == b"hello"
        assert len(proxy.seen) == 2


async def test_a_proxy_that_refuses_is_told_apart_from_the_service() -> None:
    async with forward_proxy({}, "ann:s3cret") as (proxy, at):
        async with client(proxy=f"http://ann:wrong@{at}") as web:
            with pytest.raises(Unreachable, match="proxy") as caught:
                await web.request("POST", "https://crm.example/", body=b"x")
            assert caught.value.notes == ("POST https://crm.example/: the proxy answered 407",)
            reply = await web.request("POST", "http://crm.example/", body=b"x")
            assert isinstance(error_of(reply, idempotent=False), Rejected)
            assert proxy.refused == 2
        async with client(proxy=f"http://ann:s3cret@{at}") as web:
            with pytest.raises(Unreachable) as caught:
                await web.request("POST", "https://crm.example/", body=b"x")
            assert "502" in caught.value.notes[0]
    async with client(proxy=f"http://ann:s3cret@{at}") as web:
        with pytest.raises(Unreachable) as caught:
            await web.request("GET", "https://crm.example/")
        [note] = caught.value.notes
        assert note == "GET https://crm.example/: the proxy: connection refused"
        assert "s3cret" not in f"{caught.value!r} {note}"


async def test_what_needs_no_proxy_is_reached_directly() -> None:
    far = Far()
    async with (
        backend(far) as url,
        forward_proxy({"127.0.0.1": port_of(url)}) as (proxy, at),
        client(proxy=f"http://{at}", no_proxy=["127.0.0.0/8"]) as direct,
        client(proxy=f"http://{at}", no_proxy=["example.org"]) as through,
    ):
        await direct.request("GET", url)
        assert proxy.seen == []
        await through.request("GET", f"{url}/")
        assert proxy.seen == [f"GET {url}/ HTTP/1.1"]
    assert len(far.got) == 2


async def test_the_environment_counts_only_if_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Far()
    async with (
        backend(far) as url,
        forward_proxy({"127.0.0.1": port_of(url), "crm.example": port_of(url)}) as (proxy, at),
    ):
        monkeypatch.setenv("http_proxy", at)  # as many write it, without a scheme
        monkeypatch.setenv("no_proxy", "localhost, crm.example")
        async with client() as web:
            await web.request("GET", url)
            assert proxy.seen == []
        async with client(proxy="environment") as web:
            await web.request("GET", f"{url}/")
            assert len(proxy.seen) == 1
            with pytest.raises(Unreachable):
                await web.request("GET", f"http://crm.example:{port_of(url)}/", timeout=5)
            assert len(proxy.seen) == 1
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
        with pytest.raises(BuildFailed, match="a URL of a proxy is"):
            web_client(FakeBuild(), ClientOptions(proxy="environment"))  # type: ignore[arg-type]


async def test_soap_calls_go_through_it_too() -> None:
    async with hosted() as service:
        port = port_of(service.url.rpartition("/")[0])
        async with forward_proxy({"partner.example": port}, "ann:s3cret") as (proxy, at):
            role = soap_adapter.caller
            assert role is not None
            build = FakeBuild(HERE)
            options = {
                "wsdl": "partner.wsdl", "operation": "getPartner",
                "url": "http://partner.example/soap", "proxy": f"http://ann:s3cret@{at}",
            }  # fmt: skip
            caller = role.make(role.options.model_validate(options), build)
            sent = Envelope(body=Body(soap(GET).encode(), "text/xml"))
            answer = await caller.call(sent)
            assert b"A &amp; &lt;B&gt;" in answer.body.raw
            assert proxy.seen == ["POST http://partner.example/soap HTTP/1.1"]
            for shared in build.objects.values():
                if hasattr(shared, "close"):
                    await shared.close()


# --- what the options mean ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "host", "direct"),
    [
        ("example.org", "example.org", True),
        ("example.org", "api.EXAMPLE.org.", True),
        (".example.org", "api.example.org", True),
        ("*.example.org", "api.example.org", True),
        ("example.org", "notexample.org", False),
        ("api.example.org", "example.org", False),
        ("*", "anything.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("fd00::/8", "[fd00::1]", True),
        ("[::1]", "::1", True),
        ("10.0.0.0/8", "ten.example", False),
        ("", "anything.example", False),
        (".", "anything.example", False),
    ],
)
def test_what_no_proxy_stands_for(name: str, host: str, direct: bool) -> None:
    server = Server("http://proxy:3128")
    found = Proxies(server, server, (name,)).server("https", host)
    assert found == (None if direct else server)


def test_the_environment_has_one_for_each_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxies("environment", ["a"]) == Proxies(None, None, ("a",))
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://u:p@secure:2/")
    monkeypatch.setenv("NO_PROXY", "b, ,10.0.0.0/8")
    assert proxies("environment", ["a"]) == Proxies(
        Server("http://all:1"), Server("http://secure:2", "Basic dTpw"), ("a", "b", "10.0.0.0/8")
    )


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "socks5://proxy", "http://", "http://proxy:3128/path", "http://proxy:99999",
     "http://proxy?x", "http://pro xy:1", "http://u:s3cret@[::1"],
)  # fmt: skip
def test_proxies_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        parse_proxy(url)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValidationError):
        ClientOptions.model_validate({"proxy": url})


def test_a_password_is_not_shown() -> None:
    options = ClientOptions.model_validate({"proxy": "http://ann:s3cret@proxy:3128"})
    assert "s3cret" not in repr(options)
    assert parse_proxy("http://[::1]:3128") == Server("http://[::1]:3128")
