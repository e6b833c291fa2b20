"""A hosted SOAP service for tests, and a client that posts to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

import esb.codecs  # noqa: F401 - registers the codecs
from esb.envelope import Body, Envelope
from esb_soap import adapter
from esb_soap.envelope import SoapFault, read_envelope, read_fault
from esb_web import ListenOptions, WebServer
from support.fake_build import FakeBuild
from support.peers import HERE

NS = "urn:example:partner"
S11 = "http://schemas.xmlsoap.org/soap/envelope/"
S12 = "http://www.w3.org/2003/05/soap-envelope"
GET = f'<getPartner xmlns="{NS}"><id>1</id></getPartner>'
PARTNER = {"partner": {"id": 1, "name": "A & <B>", "kind": "company", "balance": "1.10"}}


def soap(body: str, ns: str = S11, header: str = "") -> str:
    return f'<s:Envelope xmlns:s="{ns}">{header}<s:Body>{body}</s:Body></s:Envelope>'


class Client:
    """Posts to a hosted service; `seen` are the messages that its route got."""

    def __init__(self, url: str, session: aiohttp.ClientSession, seen: list[Envelope]) -> None:
        self.url = url
        self.session = session
        self.seen = seen

    async def post(
        self, text: str | bytes, action: str | None = None, *, kind: str = "text/xml; charset=utf-8"
    ) -> tuple[int, bytes]:
        headers = {"content-type": kind}
        if action is not None:
            headers["soapaction"] = f'"{action}"'
        raw = text.encode() if isinstance(text, str) else text
        async with self.session.post(self.url, data=raw, headers=headers) as answer:
            self.headers = answer.headers
            return answer.status, await answer.read()

    async def answer(self, text: str, action: str | None = None, **options: Any) -> Any:
        """The element in the Body of a good answer."""
        status, raw = await self.post(text, action, **options)
        assert status == 200, raw
        return read_envelope(raw).content

    async def fault(
        self, text: str | bytes, action: str | None = None, *, status: int = 500, **options: Any
    ) -> SoapFault:
        got, raw = await self.post(text, action, **options)
        assert got == status, raw
        message = read_envelope(raw)
        assert message.fault is not None
        assert self.headers["content-type"].startswith(
            "text/xml" if message.version == "1.1" else "application/soap+xml"
        )
        return read_fault(message.fault)


@contextlib.asynccontextmanager
async def hosted(
    step: Any = None,
    folder: Path = HERE,
    listen: dict[str, Any] | None = None,
    store: Any = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """A hosted service; `step` is the route, or what it answers."""
    settings = ListenOptions.model_validate({"port": 0, **(listen or {})})
    build = FakeBuild(folder, store, listen=settings)
    role = adapter.source
    assert role is not None
    raw = {"wsdl": "partner.wsdl", "path": "/soap", **options}
    source = role.make(role.options.model_validate(raw), build)
    seen: list[Envelope] = []

    async def run(envelope: Envelope) -> Envelope:
        seen.append(envelope)
        if callable(step):
            found: Envelope = await step(envelope)
            return found
        if isinstance(step, Exception):
            raise step
        return envelope.reply(step if isinstance(step, Body) else Body.of(step or PARTNER))

    server: WebServer = build.objects["web"]
    await server.open()
    await source.start(run)
    server.serve()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(server.url + "/soap", session, seen)
    finally:
        await source.stop(5)
        await server.close()
