"""Who did what with the bus, and when: a stream of its own, a JSON object a line, appended only.

What comes over the admin API is told as it was asked, so nothing that is added there is left out.
Whom routes refused is told if the project says so. No query, body or credential is in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from pydantic import Field

from esb.adapter import Build, Health
from esb.envelope import Envelope
from esb.identity import network_of
from esb.options import Options

log = structlog.get_logger("esb.audit")

LOOKS: Final = frozenset({"GET", "HEAD"})
_LONGEST: Final = 500
_MOST: Final = 100
"""Kinds of refusals that are told apart in a minute: whoever makes up more fills no disk."""
_MINUTE: Final = 60.0


class AuditOptions(Options):
    """Who did what by the admin API, by signals and by changed files."""

    file: Path | None = Field(
        None,
        description="Where it is appended, a JSON object a line; a relative path is one of the "
        "project. One that was moved away is opened anew. Left out, it is told in the log, by the "
        "logger `esb.audit`.",
    )
    refusals: bool = Field(
        False,
        description="Also whom routes did not let in: who did not show who he is, who may not, who "
        "asked too often or guessed too often. The first time at once, further ones of a kind are "
        "counted and told once a minute.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()


class Audit:
    """Where it is told. root: what a relative path is relative to."""

    def __init__(self, options: AuditOptions, root: Path) -> None:
        self._path = root / options.file if options.file is not None else None
        self._descriptor = -1

    def tell(self, action: str, by: str, result: str, **more: Any) -> None:
        """One more. What cannot be written is told in the log; what was done stays done."""
        told = {"action": action[:_LONGEST], "by": by[:_LONGEST], "result": result, **more}
        if self._path is None:
            log.info("audit", **told)
            return
        line = msgspec.json.encode({"time": _now(), **told}) + b"\n"
        try:
            os.write(self._opened(self._path), line)
        except OSError as e:
            log.error("the audit cannot be written", why=e.strerror, **told)

    def _opened(self, path: Path) -> int:
        """The file that lies there now, which need not be the one that did."""
        if self._descriptor >= 0:
            try:
                if os.path.samestat(os.fstat(self._descriptor), path.stat()):
                    return self._descriptor
            except FileNotFoundError:
                pass
            self.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        return self._descriptor

    def close(self) -> None:
        """Let go of the file; it opens again by itself."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass
class _Kind:
    """Refusals of a kind in this minute: what is told of them, and how many are not told yet."""

    place: str
    by: str
    why: str
    since: str
    address: str = ""
    more: int = 0


class Refusals:
    """Whom routes refused. A flood of them is a few lines a minute, whoever sends it; a Resource.

    audit: where they are told, which is closed with it. every: seconds until they are added up.
    """

    def __init__(self, audit: Audit, every: float = _MINUTE) -> None:
        self._audit = audit
        self._every = every
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        self._others: _Kind | None = None  # when there are too many
        self._timer: asyncio.TimerHandle | None = None

    def tell(
        self, place: str, why: str, *, by: str = "", address: str = "", user: str = ""
    ) -> None:
        """Somebody was refused at a place. by: who he is, if that is known. user: who he says he
        is, which is told the first time."""
        key = place, why, by, network_of(address)
        kind = self._kinds.get(key)
        if kind is None and len(self._kinds) >= _MOST:
            kind = self._others = self._others or _Kind("others", "", "refused", _now())
        if kind is not None:
            kind.more += 1
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._add_up)
        self._kinds[key] = _Kind(place, by, why, _now(), address)
        says = {"user": user[:_LONGEST]} if user else {}
        self._audit.tell(place, by or "nobody", why, **{"from": address}, **says)

    def of(self, place: str) -> Callable[[Envelope, str], None]:
        """What tells of messages that were refused at a place."""

        def refused(envelope: Envelope, why: str) -> None:
            address = envelope.params.get("client", {}).get("address", "")
            self.tell(place, why, by=envelope.principal, address=address)

        return refused

    def _add_up(self) -> None:
        """Tell how many there were beside the first of each kind; the next one is a first again."""
        self._timer = None
        kinds, self._kinds = self._kinds, {}
        others, self._others = self._others, None
        for one in (*kinds.values(), others):
            if one is not None and one.more:
                about: dict[str, Any] = {"times": one.more, "since": one.since}
                if one.address:
                    about["from"] = one.address
                self._audit.tell(one.place, one.by or "nobody", one.why, **about)

    # --- a Resource

    async def open(self) -> None:
        """Nothing is needed before the first."""

    async def close(self) -> None:
        """Tell what is not told yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._add_up()
        self._audit.close()

    def health(self) -> Health:
        """Well in any case: what cannot be written is in the log."""
        return Health(True)


Tell = Callable[..., None]
"""`Refusals.tell` at a place."""


def refusals(build: Build) -> Refusals | None:
    """Where the part being built tells whom it refuses; None if nobody wants to know."""
    options: AuditOptions = build.section("audit")
    if not options.refusals or build.rehearsal:
        return None
    root = build.data_folder(".")
    return build.shared(("audit of refusals",), lambda: Refusals(Audit(options, root)))


def is_told(method: str, path: str) -> bool:
    """Whether it is to be told that somebody asked for this: whatever changes something, and what
    shows messages."""
    return method not in LOOKS or path.startswith(("/dead/", "/messages")) or begins(path)


def begins(path: str) -> bool:
    """Whether it goes on for as long as somebody looks, so that it is told when it begins."""
    return path.startswith("/routes/") and path.endswith(("/trace", "/recording"))


def ended(status: int) -> str:
    """How a request ended, by its status; 0 if whoever asked did not wait for that."""
    if status in (401, 403, 429):
        return "denied"
    return "done" if 200 <= status < 400 else "refused" if status else "broken off"
