"""The sections of a project that are settings of the bus itself, by their names."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from esb.audit import AuditOptions
from esb.auth import AuthOptions
from esb.options import Auth, Options, Words
from esb.otel import TelemetryOptions
from esb.redis import RedisOptions
from esb.secrets import SecretsOptions
from esb.store import StoreOptions
from esb.tracing import TraceOptions


class AdminOptions(Options):
    """The admin listener: health, metrics and what operators need."""

    __live__ = ("auth", "readers", "operators")
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Whoever reaches it may see and replay messages.",
    )
    port: int = Field(8081, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    enabled: bool = Field(True, description="Whether it listens at all.")
    auth: Auth | None = Field(
        None,
        description="Who may ask: names of the section `auth`. Needed where it listens at any "
        "address but one of the machine's own (127.0.0.1). `/healthz`, and whether it is ready, "
        "are told to everybody.",
    )
    readers: Words = Field(
        ["reader"], description="With `auth`: roles that may look at everything."
    )
    operators: Words = Field(
        ["operator"], description="With `auth`: roles that may look and change."
    )

    @property
    def is_near(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class VersionsOptions(Options):
    """What is kept of each configuration that `esb run` loads, so that one can go back to it. The
    names of routes that were stopped are kept there as well."""

    path: Path = Field(
        Path("data/versions"),
        description="The folder, made when missing; a relative path is one of the project.",
    )
    keep: int = Field(
        50, ge=0, description="How many versions are kept; the oldest go first. 0 keeps none."
    )


SETTINGS: dict[str, type[Any]] = {
    "auth": AuthOptions,
    "store": StoreOptions,
    "admin": AdminOptions,
    "versions": VersionsOptions,
    "trace": TraceOptions,
    "redis": RedisOptions,
    "secrets": SecretsOptions,
    "telemetry": TelemetryOptions,
    "audit": AuditOptions,
}
LIVE: Final = frozenset({"auth", "secrets"})
"""Settings that each load goes by anew; the others are those that a bus started with."""


def lasting(settings: Any) -> Any:
    """A section without what a reload may change of it."""
    live: tuple[str, ...] = getattr(settings, "__live__", ())
    return settings.model_copy(update=dict.fromkeys(live)) if live else settings
