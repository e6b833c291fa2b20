"""What steps can be told of a file that somebody else wrote (see `esb.aside`)."""

from __future__ import annotations

from typing import Any, Final, Protocol

from pydantic import Field

from esb.adapter import Build

UNTRUSTED: Final[Any] = Field(
    False,
    description="Nobody vouches for the file, or for what messages make it do: it runs in a "
    "process of its own, which is killed when it takes too long or too much. The message then "
    "fails alone.",
)
TIMEOUT: Final[Any] = Field(
    None, description="Time for one message, if it is `untrusted`: 2s if left out."
)
MEMORY: Final[Any] = Field(
    None, description="Memory for one message, if it is `untrusted`: 256MB if left out."
)


class Limited(Protocol):
    """Options with the three fields above."""

    @property
    def untrusted(self) -> bool: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...


def limits(options: Limited) -> tuple[float, int]:
    """Seconds and bytes."""
    return options.timeout or 2.0, options.memory or 256 * 1024**2


def check_untrusted(options: Limited, build: Build, apt: bool, what: str) -> None:
    """Record a problem for what means nothing here. apt: there is a file that can run so."""
    if options.untrusted and not apt:
        build.problem(f"only {what} runs in a process of its own", "untrusted", key=True)
    for name in ("timeout", "memory"):
        if not options.untrusted and getattr(options, name) is not None:
            build.problem(
                f"'{name}' is for what runs in a process of its own", name, key=True,
                hint="untrusted: true",
            )  # fmt: skip
