"""Who did what with the bus, and when: a stream of its own, a JSON object a line, appended only.

What comes over the admin API is told as it was asked, so nothing that is added there is left out.
No query, body or credential is in it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from pydantic import Field

from esb.options import Options

log = structlog.get_logger("esb.audit")

LOOKS: Final = frozenset({"GET", "HEAD"})
_LONGEST: Final = 500


class AuditOptions(Options):
    """Who did what by the admin API, by signals and by changed files."""

    file: Path | None = Field(
        None,
        description="Where it is appended, a JSON object a line; a relative path is one of the "
        "project. One that was moved away is opened anew. Left out, it is told in the log, by the "
        "logger `esb.audit`.",
    )


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
        line = msgspec.json.encode({"time": datetime.now(UTC).isoformat(), **told}) + b"\n"
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
