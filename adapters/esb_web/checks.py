"""Health checks: a far side is asked now and then how it is, whether or not there are messages.

What a check finds stops no message (a circuit breaker does that, see `esb.middleware.breaker`): it
is shown to those who run the bus, and `load_balance` prefers ways that are well.
"""

from __future__ import annotations

import asyncio
import re
from random import random
from typing import Annotated, Any, Final, Literal

import structlog
from pydantic import AfterValidator, BeforeValidator, Field

from esb.adapter import Build, Health
from esb.errors import EsbError
from esb.options import Duration, Options
from esb_web.client import ClientOptions, WebClient, web_client

log = structlog.get_logger("esb.health")

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-_\[\]:]+(?=[/?]|\Z)")
_STATUSES: Final = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?")
_SPREAD: Final = 0.1
"""By so much a wait is longer or shorter, so that many buses do not ask at the same time."""


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(str(one) if type(one) is int else one for one in value)
    return (str(value) if type(value) is int else value,)


def _spelled(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        found = _STATUSES.fullmatch(value)
        if not found or not _range(*found.groups()):
            raise ValueError("statuses are written 200, 200-299 or 2xx")
    return values


def _path(value: str) -> str:
    if value and not re.fullmatch(r"[/?][!-\"$-~]*", value):
        raise ValueError("it is a path of the same host, /health, or a query, ?wsdl")
    return value


class HealthOptions(Options):
    """How a far side is asked whether it is well, with the endpoint's own TLS, proxy and
    credentials."""

    __shorthand__ = "path"

    path: Annotated[str, AfterValidator(_path)] = Field(
        "",
        description="What is asked for: a path of the endpoint's host (`/health`), or a query at "
        "its URL. A SOAP service is asked for its `?wsdl` if nothing is said.",
    )
    method: Literal["GET", "HEAD"] = Field("GET", description="How it is asked.")
    every: Duration = Field(10.0, gt=0, description="How often, a tenth more or less.")
    timeout: Duration = Field(2.0, gt=0, description="How long an answer may take.")
    status: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed, json_schema_input_type=int | str | list[int | str]),
        AfterValidator(_spelled),
    ] = Field(
        ("200-299",),
        description="What says that it is well: statuses, `200`, `200-299` or `2xx`.",
        min_length=1,
    )
    unhealthy_after: int = Field(
        3,
        ge=1,
        description="So many times in a row it is not well, and it is ill. The first time ever one "
        "answer decides.",
    )
    healthy_after: int = Field(1, ge=1, description="So many times in a row, and it is well.")


def _short(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class CheckedOptions(ClientOptions):
    """What endpoints of services have in common that can be asked how they are."""

    health: (
        Annotated[
            HealthOptions, BeforeValidator(_short, json_schema_input_type=str | HealthOptions)
        ]
        | None
    ) = Field(
        None,
        description="Ask the far side now and then whether it is well: `/health`, or `{path: "
        "/health, every: 30s}`. It is told by `GET /endpoints`, `/readyz` and "
        "`esb_endpoint_healthy`, and `load_balance` avoids who is ill.",
    )


def check_health(build: Build, options: CheckedOptions, url: str, path: str = "") -> None:
    """Have the far side of the endpoint being built asked, if its options say so. url: of the
    endpoint. path: what is asked for if they do not say what. Endpoints that ask the same share one
    check. Records a problem if nothing says whom, or what for."""
    health = options.health
    if health is None or "${" in url:  # the latter: `check --no-env`
        return
    origin, path = _ORIGIN.match(url), health.path or path
    if origin is None:
        build.problem(
            "messages choose the host, so there is none to ask", "health", key=True,
            hint="name it in `url`",
        )  # fmt: skip
        return
    if not path:
        build.problem("it is not said what to ask for", "health", key=True, hint="health: /health")
        return
    base = origin[0] if path.startswith("/") else url.partition("?")[0]
    if "{{" in base:
        build.problem(
            "messages choose the path, so a query is not enough", "health", key=True,
            hint="health: /health",
        )  # fmt: skip
        return
    if build.rehearsal:
        return
    # Not over the connections of messages: where these are all taken the far side is not ill.
    client = web_client(build, options, of="health checks")
    shown = f"health of {base}{path}".partition("?")[0]
    check = build.shared(
        (shown, path, health, client.mark, options.auth),
        lambda: HealthCheck(client, base + path, health),
    )
    build.checked(check)


class HealthCheck:
    """Asks one URL; a Resource."""

    def __init__(self, client: WebClient, url: str, options: HealthOptions) -> None:
        self._client = client
        self._url = url
        self._shown = url.partition("?")[0]
        self._options = options
        found = [_STATUSES.fullmatch(one) for one in options.status]
        self._well = [_range(*one.groups()) for one in found if one]
        self._health = Health(True)
        self._known = False
        self._row = 0  # how many answers in a row say the opposite
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to ask, a moment later: who starts with many asks them one after the other."""
        self._task = asyncio.create_task(self._run(), name=f"esb: health of {self._shown}")

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def health(self) -> Health:
        """How it was when it was asked; well before that."""
        return self._health

    async def _run(self) -> None:
        every = self._options.every
        await asyncio.sleep(random() * min(1.0, every * _SPREAD))  # noqa: S311 - no secret
        while True:
            self._judge(await self._ask())
            await asyncio.sleep(every * (1 + _SPREAD * (2 * random() - 1)))  # noqa: S311 - no secret

    async def _ask(self) -> str:
        """Why it is not well; "" if it is."""
        try:
            reply = await self._client.request(
                self._options.method, self._url, timeout=self._options.timeout, want_body=False
            )
        except EsbError as e:
            return "; ".join((e.detail, *e.notes))[:500]
        except Exception as e:
            log.exception("a health check failed")
            return type(e).__name__
        well = any(reply.status in statuses for statuses in self._well)
        return "" if well else f"it answered with status {reply.status}"

    def _judge(self, why: str) -> None:
        options, was = self._options, self._health
        if (not why) is was.up:
            self._row = 0
            if why:
                self._health = Health(False, why)
        else:
            self._row += 1
            needed = options.unhealthy_after if was.up else options.healthy_after
            if self._row >= needed or not self._known:
                self._row = 0
                self._health = Health(not why, why)
                tell = log.warning if why else log.info
                about = {"why": why} if why else {}
                tell("far side is ill" if why else "far side is well", url=self._shown, **about)
        self._known = True


def _range(hundred: str | None, first: str | None, last: str | None) -> range:
    if hundred:
        return range(int(hundred) * 100, int(hundred) * 100 + 100)
    low = int(first or 0)
    return range(low, int(last or low) + 1)
