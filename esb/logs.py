"""Logs: one line an event, for people on a terminal, as JSON for programs.

Much of what is logged was sent by somebody. Whatever it holds, it makes no line of its own, moves
no cursor and turns no text around: what controls a terminal is written as an escape (CWE-117,
CWE-150).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from io import StringIO
from typing import Any, Final, TextIO

# structlog loads rich where it is installed, for tracebacks that are never printed here: half of
# what importing `esb.cli` took. To import a module that is None in the module cache fails
# (Python Language Reference, section 5.3.1).
_modules: dict[str, Any] = sys.modules
_modules.setdefault("rich", None)
import structlog  # noqa: E402

from esb.redaction import shown  # noqa: E402

if _modules["rich"] is None:
    del _modules["rich"]  # the command line's help is made with it

log = structlog.get_logger("esb")

ABOUT: Final[ContextVar[tuple[str, str, str]]] = ContextVar("about", default=("", "", ""))
"""The route and the id of the message that the run is about, and its traceparent: fields of every
line it writes."""

_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+@", re.IGNORECASE)


def configure(*, json: bool, level: str = "info") -> None:
    """Send the bus's and its libraries' logs to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _say_about,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_passwords,
    ]
    written: Any
    if json:
        shared.append(structlog.processors.format_exc_info)
        written = structlog.processors.JSONRenderer(default=str)
    else:
        shared.append(_tame)
        written = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=30,
            # The default prints the local variables too, and with them whatever was secret.
            exception_formatter=_traceback,
        )

    def renderer(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return shown(written(logger, method, event))  # also what stands in a traceback

    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # What is below the level costs no more than the call of an empty function.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Libraries speak up only when something is wrong: what they do, the bus itself reports.
    for name in ("aio_pika", "aiormq", "aiohttp", "asyncio", "watchfiles"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(logging.WARNING)


def _say_about(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    route, message, traceparent = ABOUT.get()
    if not route:
        return event
    about = {"route": route, "message": message}
    if traceparent:
        _, about["trace_id"], about["span_id"], *_ = f"{traceparent}---".split("-")
    return {**about, **event}


# C0, DEL and C1; what ends a line elsewhere; what turns the direction of a text.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def tame(text: str) -> str:
    """A text in one line, whatever it is."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _tame(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal. In JSON all of this is escaped anyhow."""
    return {
        tame(name): value if name[:1] == "_" or name == "exc_info" else _tamed(value)
        for name, value in event.items()
    }


def _tamed(value: Any) -> Any:
    if isinstance(value, str):
        return tame(value)
    if isinstance(value, int | float | None):
        return value
    shown = repr(value)
    tamed = tame(shown)
    return value if tamed == shown else _Shown(tamed)


class _Shown:
    """Something that is shown as this text, without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _traceback(out: TextIO, exc_info: Any) -> None:
    """Each of its lines stands further in than a line of the log begins: what was raised may tell
    what somebody sent."""
    told = StringIO()
    structlog.dev.plain_traceback(told, exc_info)
    out.writelines(f"  {tame(line)}\n" for line in told.getvalue().split("\n") if line)


def _hide_passwords(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = _URL_PASSWORD.sub(r"\1***@", value)
    return event
