"""Who may call what a listener serves: `auth` of a source, or else of the listener."""

from __future__ import annotations

from collections.abc import Sequence

from esb.adapter import Build
from esb.identity import PUBLIC, Authenticator
from esb_web.listen import ListenOptions


def callers(build: Build, names: Sequence[str] | None, *path: str | int) -> Authenticator:
    """Who may call a site of the source being built, whose option at `path` says `names`; None is
    what it says if it says nothing.

    Records a problem for what is nowhere said, and for what cannot be.
    """
    listen: ListenOptions = build.section("listen")
    if names is None and listen.auth is not None:
        found = build.auth(listen.auth, "auth", section="listen")
    else:
        found = build.auth(names, *path)
    certified = listen.tls is not None and listen.tls.certified
    if "certificate" in found.asks and (listen.tls is None or listen.tls.client_ca is None):
        build.problem(
            "nobody is asked for a certificate", *path, code="auth",
            hint="listen: {tls: {client_ca: ...}}",
        )  # fmt: skip
    if found is PUBLIC and "principal" in build.asked and not certified:
        build.problem(
            "`allow` is about callers, and nobody is asked who he is", code="auth", key=True,
            hint="say with `auth` how callers prove it" if build.ways else "auth: {...}",
        )  # fmt: skip
    if found is PUBLIC and not certified:
        build.gives(anonymous=True)
    return found


def readers(build: Build) -> Authenticator:
    """Who may read the pages about what is served: those who may call what says nothing itself;
    if that is not said, whoever is known at all."""
    listen: ListenOptions = build.section("listen")
    return build.auth(listen.auth or list(build.ways) or None, "auth", section="listen")
