"""The one HTTP server of a bus: Sites are mounted on it, also while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from esb.adapter import Build, Health
from esb_web.listen import ListenOptions
from esb_web.messages import Site


def web_server(build: Build) -> WebServer:
    """The server of this bus, made from its `listen:` section on first use."""
    options: ListenOptions = build.section("listen")
    return build.shared("web", lambda: WebServer(options))


class WebServer:
    """A Resource (open, close, health) that serves what is mounted on it.

    probes: answers for GET on paths such as "/healthz", as status and JSON; put there by the bus.
    """

    def __init__(
        self, options: ListenOptions, *, cert: Path | None = None, key: Path | None = None
    ) -> None:
        self.probes: dict[str, Callable[[], tuple[int, dict[str, object]]]] = {}

    @property
    def url(self) -> str:
        """Where this is served, with the port really bound: "http://127.0.0.1:8080"."""
        raise NotImplementedError

    def mount(self, site: Site) -> None:
        """Serve a site from now on. It takes the place of one with the same path and method."""
        raise NotImplementedError

    def unmount(self, site: Site) -> None:
        """Serve it no longer, except where another site took its place already."""
        raise NotImplementedError

    async def retire(self, site: Site, grace: float) -> None:
        """Unmount and wait until its requests are answered, for `grace` seconds at most; those
        left are then cancelled and answered with 503. For `Source.stop`."""
        raise NotImplementedError

    def drain(self) -> None:
        """From now on only probes are answered; every other new request gets 503."""
        raise NotImplementedError

    async def open(self) -> None:
        """Listen. Raises EsbError when the address is taken."""

    async def close(self) -> None:
        """Close every connection and stop listening."""

    def health(self) -> Health:
        """Whether it listens."""
        return Health(False)
