"""Far sides that fail as a script says: an adapter `far` for `send` and `call`, in tests only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Final

import pytest
from pydantic import Field

import esb.loading
from esb.adapter import Adapter, Build, Role
from esb.envelope import Body, Envelope
from esb.errors import KINDS
from esb.options import Options

Script = Mapping[str, Sequence[str]]
"""For each far side what each message gets there, call by call: the code of an error, or "" for
none. What is not said is none."""


@dataclass
class Far:
    """What plays them. hang_at: the number of the call, of all, that never returns."""

    script: Script = field(default_factory=dict)
    hang_at: int | None = None
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    hangs: bool = False

    async def meet(self, name: str, envelope: Envelope) -> None:
        """One call. Raises what the script says."""
        number = self.calls[name, envelope.id]
        self.calls[name, envelope.id] += 1
        if self.calls.total() == self.hang_at:
            self.hangs = True
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        code = (*self.script.get(name, ()), *[""] * (number + 1))[number]
        if code:
            raise KINDS[code](f"{name} said so")


class World:
    """Holds the one that plays now."""

    def __init__(self) -> None:
        self.far = Far()


WORLD: Final = World()


class FarOptions(Options):
    __shorthand__ = "name"

    name: str = Field(description="Which far side.")


class _Endpoint:
    def __init__(self, options: FarOptions, build: Build) -> None:
        self._name = options.name

    async def send(self, envelope: Envelope) -> None:
        await WORLD.far.meet(self._name, envelope)

    async def call(self, envelope: Envelope) -> Envelope:
        """Its answer has a number that is 100 higher."""
        await WORLD.far.meet(self._name, envelope)
        data = envelope.body.data
        return envelope.reply(Body.of({**data, "n": data["n"] + 100}))


adapter = Adapter(sink=Role(FarOptions, _Endpoint), caller=Role(FarOptions, _Endpoint))


def install(monkeypatch: pytest.MonkeyPatch) -> World:
    """Let routes name it, until the test is over."""
    installed = esb.loading.entry_points_by_name
    far = EntryPoint("far", "support.scripted:adapter", "esb.adapters")

    def with_far(group: str) -> dict[str, Any]:
        found = installed(group)
        return {**found, "far": far} if group == "esb.adapters" else found

    monkeypatch.setattr(esb.loading, "entry_points_by_name", with_far)
    monkeypatch.setattr(WORLD, "far", Far())
    return WORLD
