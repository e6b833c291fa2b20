"""Write one line to the log; the message goes on unchanged.

For example:

    log: "order {{ body.number }} is through"
"""

from __future__ import annotations

from typing import Literal

import structlog
from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.options import Options
from esb.step import Step, computed

logger = structlog.get_logger("esb.route")

MAX_LINE = 2000


class LogOptions(Options):
    __shorthand__ = "message"

    message: str = Field("message", description="The line, plain text with {{ }}.")
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The level it is logged at."
    )


def make(options: LogOptions, build: Build) -> Step:
    """Raises RouteFailure where the text's expressions fail on a message."""
    text = build.text(options.message, "message")
    write = getattr(logger, options.level)
    route = build.route

    build.body("kept")

    def log(envelope: Envelope) -> Envelope:
        write(text(envelope)[:MAX_LINE], route=route, message_id=envelope.id)
        return envelope

    return computed(log)


step = Role(LogOptions, make)
