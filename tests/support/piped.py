"""Endpoints that pass bodies on as they arrive: an adapter `pipe`, in tests only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import Field

import esb.loading
from esb.adapter import Adapter, Build, Health, Role
from esb.envelope import Body, Envelope
from esb.options import Options
from esb.step import Step


class Pipes(Options):
    name: str = Field("", description="A text over the message, for whoever it is sent to.")
    sends: bool = Field(True, description="Whether the body of the message is sent.")
    answer: str = Field("", description="A text over the answer.")


async def arriving(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body that comes in pieces."""
    for piece in pieces:
        yield piece


class Pipe:
    """In every direction. As a source it is handed its messages by the test: see `step`."""

    waits = True
    where = "a pipe"

    def __init__(self, options: Pipes, build: Build) -> None:
        self._name = build.text(options.name, "name")
        build.answer().text(options.answer, "answer")
        self._sends = options.sends
        fates = ("made", "sent") if options.sends else ("made",)
        self.passage = build.body(*fates)  # type: ignore[arg-type]
        self.step: Step | None = None

    async def _take(self, envelope: Envelope) -> bytes:
        self._name(envelope)
        return b"".join([one async for one in envelope.body.chunks()]) if self._sends else b""

    async def call(self, envelope: Envelope) -> Envelope:
        """What it was sent, with a mark, as it arrives where that is open."""
        raw = await self._take(envelope) + b"!"
        if self.passage.open:
            return envelope.reply(Body.from_stream(arriving(raw), "text/plain"))
        return envelope.reply(Body(raw, "text/plain"))

    async def send(self, envelope: Envelope) -> None:
        """Takes it."""
        await self._take(envelope)

    async def start(self, step: Step) -> None:
        """From now on there is a step."""
        self.step = step

    async def stop(self, grace: float) -> None:
        """No longer."""

    def health(self) -> Health:
        """Well."""
        return Health(True)


class SinkPipe(Pipe):
    """One-way."""

    def __init__(self, options: Pipes, build: Build) -> None:
        super().__init__(options, build)
        self.passage = build.body("sent" if options.sends else "kept")


adapter = Adapter(source=Role(Pipes, Pipe), sink=Role(Pipes, SinkPipe), caller=Role(Pipes, Pipe))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let routes name it, until the test is over."""
    installed = esb.loading.entry_points_by_name
    pipe = EntryPoint("pipe", "support.piped:adapter", "esb.adapters")

    def with_pipe(group: str) -> dict[str, Any]:
        found = installed(group)
        return {**found, "pipe": pipe} if group == "esb.adapters" else found

    monkeypatch.setattr(esb.loading, "entry_points_by_name", with_pipe)
