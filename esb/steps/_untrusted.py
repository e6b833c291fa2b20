"""What steps can be told of a file that somebody else wrote (see `esb.aside`)."""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build
from esb.options import Duration, Options, Size

_TIMEOUT = 2.0
_MEMORY = 256 * 1024**2


class Untrusted(Options):
    untrusted: bool = Field(
        False,
        description="Nobody vouches for the file, or for what messages make it do: it runs in a "
        "process of its own, which is killed when it takes too long or too much. The message then "
        "fails alone.",
    )
    timeout: Duration | None = Field(
        None, description="Time for one message, if it is `untrusted`: 2s if left out."
    )
    memory: Size | None = Field(
        None, description="Memory for one message, if it is `untrusted`: 256MB if left out."
    )

    @property
    def limits(self) -> tuple[float, int]:
        """Seconds and bytes."""
        return self.timeout or _TIMEOUT, self.memory or _MEMORY

    def check(self, build: Build, apt: bool, what: str) -> None:
        """Record a problem for what means nothing here. apt: there is a file that can run so."""
        if self.untrusted and not apt:
            build.problem(f"only {what} runs in a process of its own", "untrusted", key=True)
        for name in ("timeout", "memory"):
            if not self.untrusted and getattr(self, name) is not None:
                build.problem(
                    f"'{name}' is for what runs in a process of its own", name, key=True,
                    hint="untrusted: true",
                )  # fmt: skip
