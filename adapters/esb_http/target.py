"""Where a message goes: a URL with `{{ }}`, each value encoded for the place it stands in.

The host is static. One that a message may choose would let its sender reach whatever the bus can
reach (CWE-918), so a `{{ }}` in front of the path needs `allow_hosts`, and leads to the public
network alone (`esb_web.reach`) unless `allow_networks` says more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from esb.adapter import Build, Expression
from esb.envelope import Envelope
from esb.errors import BadMessage, RouteFailure
from esb_web.reach import NOT_ALLOWED, Network, Reach, literal, networks

_VALUE: Final = re.compile(r"""\{\{((?:[^'"}]|'[^']*'|"[^"]*"|\}(?!\}))*)\}\}""")
_UNRESOLVED: Final = re.compile(r"(https?://)?[^/?#$]*(\$\{[^}]*\}[^/?#$]*)+")
_ORIGIN: Final = re.compile(r"https?://([^/?#\s]+)")
_AUTHORITY: Final = re.compile(r"([a-z0-9.\-_]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?\Z")
_HALVES: Final = re.compile(r"[\ud800-\udfff]")  # of characters, which JSON can hold
_STATIC: Final = re.compile(r"[!-~]+\Z")

QueryValue = str | list[str]


def make_target(
    build: Build,
    url: str,
    more: str,
    query: dict[str, QueryValue],
    allow_hosts: Sequence[str],
) -> Callable[[Envelope], str]:
    """The function that makes a message's URL from `url`, `path` and `query` of an endpoint.

    It raises RouteFailure for a value that is missing, BadMessage for a host that is not allowed
    and for a value that would climb out of its path ("..").
    """
    where = ("url",)
    if not url:
        raise build.problem("'url' is missing", *where, code="missing-key", hint="url: https://...")
    if unresolved := _UNRESOLVED.match(url):  # `check --no-env`: what it stands for is not known
        url = f"{unresolved[1] or 'http://'}unresolved{url[unresolved.end() :]}"
    whole = url.rstrip("/") + "/" + more.lstrip("/") if more else url
    if "{%" in whole:
        raise build.problem("only {{ }} can be used in a URL", *where, code="expression")
    parts = _VALUE.split(whole)
    origin = _ORIGIN.match(parts[0])
    free = chooses_host(whole)
    if not free and not re.fullmatch(r"[A-Za-z0-9.\-_\[\]:]+", origin[1] if origin else ""):
        raise build.problem(
            "the URL has no plain host", *where, code="url",
            hint="credentials go into `auth`" if "@" in whole else "",
        )  # fmt: skip
    if free and len(parts) == 1:
        raise build.problem(
            f"{whole} is no URL", *where, code="url", hint="it starts with http:// or https://"
        )
    if free and not allow_hosts:
        raise build.problem(
            "a message would choose the host", *where, code="url",
            hint="name the hosts it may choose in `allow_hosts`",
        )  # fmt: skip
    hosts = [host.lower() for host in allow_hosts] if free else []
    pieces: list[tuple[str, Expression | None, Callable[[Any], str]]] = []
    static = True
    place = _raw if free else _segment
    for index, part in enumerate(parts):
        if index % 2:
            static = False
            pieces.append(("", build.expression(part.strip(), *where), place))
            continue
        text = part
        if "{{" in text:
            raise build.problem(
                "{{ is not closed", *where, code="expression", hint="write }} behind the expression"
            )
        if not _STATIC.match(text) and text:
            raise build.problem(
                "a URL is written in ASCII without spaces", *where, code="url",
                hint=f"write {quote(text, safe='/:?&=%#[]@')}",
            )  # fmt: skip
        if "#" in text:
            raise build.problem("a URL to call has no fragment (#)", *where, code="url")
        if place is _raw and "/" in text.partition("://")[2] + (text if index else ""):
            place = _segment
        if "?" in text:
            place = _component
        pieces.append((text, None, place))
    asked = _query(build, query)

    def target(envelope: Envelope) -> str:
        made = "".join(
            text if value is None else encode(value(envelope)) for text, value, encode in pieces
        )
        if hosts:
            _allowed(made, hosts)
        pairs = asked(envelope)
        return f"{made}{'&' if '?' in made else '?'}{pairs}" if pairs else made

    if static and not query:
        return lambda _envelope: whole
    return target


def chooses_host(url: str) -> bool:
    """Whether a message chooses the host of a URL with `{{ }}`, or a part of it."""
    first, *values = _VALUE.split(url)
    origin = _ORIGIN.match(first)
    return origin is None or (origin.end() == len(first) and bool(values))


def reach(build: Build, allow_hosts: Sequence[str], allow_networks: Sequence[str]) -> Reach:
    """Where messages may lead. Records a problem for what is no network."""
    named = (_AUTHORITY.match(host.lower()) for host in allow_hosts)
    hosts = (literal(one[1]) for one in named if one)
    found: list[Network] = []
    for index, text in enumerate(allow_networks):
        try:
            found += networks([text])
        except ValueError:
            build.problem(
                f"{text} is no network", "allow_networks", index, hint="10.0.0.0/8, or an address"
            )
    return Reach(tuple(found), frozenset(host for host in hosts if host is not None))


def _query(build: Build, query: dict[str, QueryValue]) -> Callable[[Envelope], str]:
    made: list[tuple[str, Callable[[Envelope], Any]]] = []
    for name, given in query.items():
        for index, text in enumerate(given if isinstance(given, list) else [given]):
            where = ("query", name, index) if isinstance(given, list) else ("query", name)
            only = _VALUE.fullmatch(text.strip())
            value = build.expression(only[1].strip(), *where) if only else build.text(text, *where)
            made.append((quote(name, safe=""), value))

    def pairs(envelope: Envelope) -> str:
        found = []
        for name, value in made:
            given = value(envelope)
            if given is None:
                continue
            values = given if isinstance(given, list) else [given]
            found += [f"{name}={_component(one)}" for one in values]
        return "&".join(found)

    return pairs


def _text(value: Any) -> str:
    if isinstance(value, str):
        if _HALVES.search(value):
            raise BadMessage("a value of the message cannot stand in a URL")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    kind = "missing" if value is None else f"a {type(value).__name__}"
    raise RouteFailure(f"a value of the URL is {kind}, text or a number is needed")


def _raw(value: Any) -> str:
    return _text(value)


def _component(value: Any) -> str:
    return quote(_text(value), safe="")


def _segment(value: Any) -> str:
    """A value in a path: one segment, or as many as a list has."""
    if isinstance(value, list):
        return "/".join(_segment(one) for one in value)
    text = _text(value)
    if text in ("", ".", "..") or "\0" in text:
        # Empty and dot segments would make it another path than the route's author wrote.
        raise BadMessage("a value of the message cannot stand in the path of a URL")
    return quote(text, safe="")


def _allowed(url: str, hosts: Sequence[str]) -> None:
    origin = _ORIGIN.match(url) if _STATIC.match(url) else None
    authority = _AUTHORITY.match(origin[1].lower()) if origin else None
    if authority is not None and 0 < int(authority[2] or 80) < 65536:
        whole, name = authority[0], authority[1]
        for host in hosts:
            if host in ("*", whole, name) or (host.startswith("*.") and name.endswith(host[1:])):
                return
    raise BadMessage(NOT_ALLOWED)
