"""Files keep the promises of every source and sink."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.contract import Arrived, QueueFarSide, QueueSourceContract, SinkContract, SinkFarSide
from support.fake_build import FakeBuild
from support.stores import opened

from esb.adapter import Sink, Source
from esb.store import SqliteStore
from esb_file import adapter
from esb_file.options import SinkOptions, SourceOptions


class FarSide(QueueFarSide, SinkFarSide):
    """Both ends of a folder."""

    labelled = False
    dead_go_apart = True

    def __init__(self, folder: Path, store: SqliteStore) -> None:
        self.build = FakeBuild(folder, store=store)
        self.folder = folder / "inbox"
        self.folder.mkdir()
        self.numbers = count(1)

    def source(self) -> Source:
        assert adapter.source is not None
        options = {"settle": "0s", "backoff": "100ms", "poll": "100ms", "failed": "failed/"}
        self.build.claims.clear()
        made: Source = adapter.source.make(
            SourceOptions.model_validate({"folder": "inbox", **options}), self.build
        )
        return made

    async def put(
        self,
        body: bytes,
        *,
        content_type: str = "",
        id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        draft = self.folder / ".draft"
        draft.write_bytes(body)
        draft.rename(self.folder / f"{next(self.numbers):05}.bin")

    async def left(self) -> int:
        return sum(entry.is_file() for entry in os.scandir(self.folder))

    async def refused(self) -> list[bytes]:
        return [file.read_bytes() for file in self.folder.glob("failed/*")]

    def _sink(self, **options: Any) -> Sink:
        assert adapter.sink is not None
        options = {"folder": "inbox", "name": "a.bin", **options}
        made: Sink = adapter.sink.make(SinkOptions.model_validate(options), self.build)
        return made

    def sink(self) -> Sink:
        return self._sink(if_exists="number")

    def unreachable(self) -> Sink:
        return self._sink(folder="not-mounted")

    def refusing(self) -> Sink:
        (self.folder / "a.bin").write_bytes(b"another")
        return self._sink(if_exists="fail")

    async def arrived(self, count: int) -> list[Arrived]:
        files = sorted(self.folder.iterdir())
        assert len(files) >= count
        messages = [Arrived(file.read_bytes()) for file in files[:count]]
        for file in files[:count]:
            file.unlink()
        return messages

    async def more(self) -> int:
        return len(list(self.folder.iterdir()))


@pytest.fixture
async def far_side(tmp_path: Path) -> AsyncIterator[FarSide]:
    async with opened(tmp_path / "bus.db") as store:
        yield FarSide(tmp_path, store)


class TestFileSource(QueueSourceContract):
    pass


class TestFileSink(SinkContract):
    pass
