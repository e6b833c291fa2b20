"""A message that is through is gone at once, also one that failed: its body may be large, and the
collector of cycles comes by only now and then."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support import scripted
from support.bus import running

from esb.envelope import Body, Envelope
from esb.errors import EsbError

FAR = "{far: it}"
ROUTES = {
    "call": f"steps: [{{call: {FAR}}}]",
    "send": f"steps: [{{send: {FAR}}}]",
    "limits": f"timeout: 5s\n    concurrency: 2\n    steps: [{{send: {FAR}}}]",
    "guarded": "steps: [{send: {far: {name: it, concurrency: 2, circuit_breaker: {}}}}]",
    "retried": f"retry: {{attempts: 2, backoff: 1ms..1ms}}\n    steps: [{{send: {FAR}}}]",
    "a step retried": f"steps: [{{send: {FAR}, retry: {{attempts: 2, backoff: 1ms..1ms}}}}]",
    "dead letters": f"dead_letter: {{queue: dead}}\n    steps: [{{send: {FAR}}}]",
    "caught": f"steps: [{{try: {{steps: [{{send: {FAR}}}], catch: [{{steps: []}}]}}}}]",
    "caught and raised": (
        f"steps: [{{try: {{steps: [{{send: {FAR}}}], catch: [{{steps: [], rethrow: true}}]}}}}]"
    ),
    "finally": f"steps: [{{try: {{steps: [{{send: {FAR}}}], finally: [log]}}}}]",
    "traced": f"trace: {{errors: true}}\n    steps: [{{send: {FAR}}}]",
    "a sub-route": "steps: [{run: sub}]",
    "a bug": "steps: [{python: bug:bug}]",
}


class Watched(Body):
    """A body that tells when it is gone."""

    __slots__ = ("__weakref__",)


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("error", ["", "unreachable", "rejected", "bad-message"])
@pytest.mark.parametrize("name", ROUTES)
async def test_nothing_of_a_message_waits_for_the_collector(
    name: str,
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_collector: None,
) -> None:
    world = scripted.install(monkeypatch)
    world.far = scripted.Far({"it": [error] * 5})
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "bug.py").write_text("def bug(message):\n    raise KeyError('a bug')\n")
    text = f"""
routes:
  r:
    from: {{http: /r}}
    {ROUTES[name]}
  sub:
    retry: {{attempts: 2, backoff: 1ms..1ms}}
    steps: [{{send: {FAR}}}]
  unused: {{from: {{queue: unused}}, steps: [{{run: sub}}]}}
"""
    async with running(text, tmp_path) as bus:
        gone: list[Any] = []

        async def pass_one() -> None:
            body = Watched(b'{"n": 1}', "application/json")
            gone.append(weakref.ref(body))
            # As a test sees it, a log shows the variables of each frame, and these then stay.
            with contextlib.suppress(EsbError), capture_logs() as lines:
                await bus.routes["r"].step(Envelope(body=body))
            lines.clear()

        for _ in range(4):
            await pass_one()
        if name == "traced":
            await bus.shared.objects["traces"]._write_all()
        # The last one may still be in the hands of the thread that wrote it.
        assert [ref() for ref in gone[:-1]] == [None] * 3
