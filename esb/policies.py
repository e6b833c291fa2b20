"""Compiling the policies that need more than their options: expressions over the message, and what
buses share.

What a policy asks of the source of its route is said in `Asked`: what the source then fills in, or
tells its caller, costs the other routes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from jinja2 import nodes

from esb.adapter import Build, Expression
from esb.expressions import syntax
from esb.middleware.authorize import Allow, allowing
from esb.middleware.cache import Cache, CacheOptions
from esb.middleware.rate_limit import (
    Counts,
    InProcess,
    InRedis,
    Limiter,
    RateLimitOptions,
    shared_by,
)
from esb.outline import Part, Use
from esb.redis import Redis, RedisOptions
from esb.step import Middleware

N = TypeVar("N", bound=nodes.Node)

CALLER: Final = ("client", "principal")
"""Groups of params that only sources fill: the caller's address, and what is known of who calls."""

_ALWAYS: Final = frozenset({"accept", "authorization", "cookie"})


class Policies(NamedTuple):
    """What was compiled of a route's. cache: filled in when it is known what its answers come from.
    asked: see `Build.asked`."""

    allow: Middleware | None = None
    limiter: Limiter | None = None
    cache: Cache | None = None
    asked: frozenset[str] = frozenset()


def route_policies(
    build: Build,
    limits: Sequence[RateLimitOptions] | None,
    cache: CacheOptions | None,
    allow: Sequence[Allow] | None = None,
) -> Policies:
    """Those of a route, before its source is built."""
    asked: set[str] = set()
    limiter = None
    if limits:
        limiter = _limiter(build, limits, asked)
        asked.add("limits")
    if cache is not None:
        asked |= {"http", "cached", *named([cache.key] if cache.key else [])}
    allowed = None
    if allow is not None:
        allowed = allowing(
            [(rule, _when(build, rule, i)) for i, rule in enumerate(allow)], build.ways
        )
        asked |= {"principal", *named([rule.when for rule in allow if rule.when])}
        if any(rule.methods for rule in allow):
            asked.add("http")
    return Policies(allowed, limiter, asked=frozenset(asked))


def _when(build: Build, rule: Allow, index: int) -> Expression | None:
    """Its expression. One rule may stand without a list, and be its expression alone."""
    if rule.when is None:
        return None
    return build.expression(rule.when, "allow", index, "when", names=CALLER)


def _limiter(build: Build, limits: Sequence[RateLimitOptions], asked: set[str]) -> Limiter:
    keys = []
    for index, one in enumerate(limits):
        at = ("rate_limit", index, "per") if len(limits) > 1 else ("rate_limit", "per")
        if one.per == "address":
            asked.add("client")

        def compiled(text: str, at: tuple[str | int, ...] = at) -> Expression:
            return build.expression(text, *at, names=CALLER)

        keys.append(shared_by(one.per, compiled))
        if one.per not in ("route", "principal", "address"):
            asked |= named([one.per])
    redis = _redis(build)

    def counts() -> Counts:
        return InProcess() if redis is None else InRedis(redis)

    return Limiter(limits, keys, build.shared(("rate limits", redis is None), counts))


def cached(
    build: Build, options: CacheOptions, name: str, *, version: str, tells: bool = False
) -> Cache:
    """The cache of a route or a call. version: of what its answers come from; where that is another
    after a reload, or in another bus, so are the answers."""
    redis = _redis(build)
    if options.where == "redis" and redis is None and not build.rehearsal:
        build.problem(
            "there is no Redis to keep answers in", "cache", "where", hint="redis: {url: ...}"
        )
    if options.where == "memory":
        redis = None
    key = None
    if options.key is not None:
        key = build.expression(options.key, "cache", "key", names=CALLER)
    clock = build.clock

    def make() -> Cache:
        return Cache(name, options, version=version, key=key, redis=redis, tells=tells, clock=clock)

    return build.shared((f"cache {name}", version, redis is None), make)


def unkeyed(options: CacheOptions, parts: Iterable[Part]) -> Use | None:
    """What in these parts reads a header that is not there, because the key of their answers does
    not have it. None if there is nothing."""
    known = {*options.vary, *_ALWAYS}
    for part in parts:
        for use in part.uses:
            if use.what != "template" and not _headers(use) <= known:
                return use
    return None


def _headers(use: Use) -> set[str]:
    """The headers that an expression reads; "*" for those that nobody can tell."""
    found: set[str] = set()
    told: list[int] = []
    for tree in syntax(str(use.source), text=use.what == "text"):
        for read in _all(tree, nodes.Getitem):
            if _is_headers(read.node) and isinstance(read.arg, nodes.Const):
                found.add(str(read.arg.value).lower())
                told.append(id(read.node))
        for named in _all(tree, nodes.Getattr):
            if _is_headers(named.node):
                found.add(named.attr.lower())
                told.append(id(named.node))
        if any(_is_headers(name) and id(name) not in told for name in _all(tree, nodes.Name)):
            found.add("*")
    return found


def _is_headers(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "headers"


def _all(tree: nodes.Node, kind: type[N]) -> list[N]:
    return [*([tree] if isinstance(tree, kind) else []), *tree.find_all(kind)]


def named(sources: Iterable[str]) -> set[str]:
    """What the expressions name of the caller or his request."""
    found: set[str] = set()
    for source in sources:
        for tree in syntax(source):
            found |= {one.name for one in _all(tree, nodes.Name)}
    return found & {"client", "http"}


def _redis(build: Build) -> Redis | None:
    """The project's, if it has one; none in tests of routes, which reach nothing outside."""
    options: RedisOptions = build.section("redis")
    if options.url is None or build.rehearsal:
        return None
    url = options.url.get_secret_value()
    try:
        return build.shared(("redis", url), lambda: Redis(url, options))
    except ImportError:
        build.problem(
            "the library for Redis is not installed", hint="pip install 'esb[redis]'", key=True
        )
        return None


__all__ = ["CALLER", "Policies", "cached", "named", "route_policies", "unkeyed"]
