"""Which Site answers a path and method: a dict for fixed paths, then a tree over segments.

A fixed segment wins over `:name`, `:name` over `*rest`; among sites on one path the method decides.
A single slash at the end of a path makes no difference. Segments are compared decoded, and what is
compared is what the site gets: a request with a segment that could be read in two ways (an encoded
slash or backslash, a dot segment, a NUL, bytes that are not UTF-8) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from esb.errors import BadMessage
from esb_web.messages import Site

_AMBIGUOUS: Final = re.compile(r"[\x00-\x1f\x7f/\\]")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

Found = tuple[Site, dict[str, str]]


def normal_path(path: str) -> str:
    """The path of a Site with its parameters' names taken out ("/a/:/*"); two sites whose normal
    paths and methods are equal cannot be told apart.

    Raises ValueError, saying how to write it, if it is no such path.
    """
    return "/" + "/".join(
        ":" if part.startswith(":") else "*" if part.startswith("*") else part
        for part in _parts(path)
    )


def parameters(path: str) -> list[str]:
    """The names of its parameters, in their order."""
    return re.findall(r"(?<=/)[:*](\w+)", path)


def _parts(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError("a path starts with a slash")
    if re.search(r"[?#\s%]", path):
        raise ValueError("a path is written decoded, without ?, # or spaces")
    if '"' in path:
        raise ValueError("a path has no quotes in it")
    parts = path[1:].rstrip("/").split("/") if path.strip("/") else []
    names = set()
    for index, part in enumerate(parts):
        if "{" in part or "}" in part:
            raise ValueError(f"write :{part.strip('{}')} instead of {part}")
        if part in ("", ".", "..") or "\\" in part:
            raise ValueError("a path has no empty and no dot segments and no backslash")
        if part[0] in ":*":
            if not _NAME.match(part[1:]):
                raise ValueError(f"{part} is no parameter: letters, digits and _ make its name")
            if part in names or part[1:] in names:
                raise ValueError(f"the parameter {part[1:]} is there twice")
            names.add(part[1:])
            if part[0] == "*" and index != len(parts) - 1:
                raise ValueError(f"{part} takes the rest of the path, so it comes last")
    return parts


def decode_segment(raw: str) -> str:
    """A path segment without its percent-encoding. Raises BadMessage if it is ambiguous."""
    if "%" in raw:
        if _ESCAPE.search(raw):
            raise BadMessage("the path has a % that starts no escape")
        try:
            raw = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError as e:
            raise BadMessage("the path is not UTF-8") from e
    if _AMBIGUOUS.search(raw) or raw in (".", ".."):
        raise BadMessage("the path has a dot segment, an encoded slash or a control character")
    return raw


class _Node:
    """The sites of one path, and the nodes below it."""

    __slots__ = ("fixed", "one", "rest", "sites")

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.fixed: dict[str, _Node] = {}
        self.one: _Node | None = None
        self.rest: _Node | None = None


class Router:
    """The sites that are served; they may be added and removed at any time."""

    def __init__(self) -> None:
        self._root = _Node()
        self._fixed: dict[str, dict[str, Site]] = {}
        self._parts: dict[Site, tuple[str, ...]] = {}

    def add(self, site: Site) -> None:
        """Serve `site`; it takes the place of one with the same path and method.

        Raises ValueError if its path is none.
        """
        parts = _parts(site.path)
        node = self._root
        for part in parts:
            if part[0] == ":":
                node.one = node = node.one or _Node()
            elif part[0] == "*":
                node.rest = node = node.rest or _Node()
            else:
                node = node.fixed.setdefault(part, _Node())
        for method in site.methods:
            before = node.sites.get(method)
            node.sites[method] = site
            if before is not None and before not in node.sites.values():
                del self._parts[before]
        self._parts[site] = tuple(part[1:] for part in parts if part[0] in ":*")
        if not self._parts[site]:
            path = "/" + "/".join(parts)
            self._fixed[path] = node.sites
            self._fixed[path.rstrip("/") + "/"] = node.sites

    def remove(self, site: Site) -> None:
        """Serve `site` no longer, except where another has taken its place."""
        if self._parts.pop(site, None) is None:
            return
        trail: list[tuple[_Node, str]] = []
        node = self._root
        for part in _parts(site.path):
            trail.append((node, part))
            below = (
                node.one if part[0] == ":" else node.rest if part[0] == "*" else node.fixed[part]
            )
            assert below is not None
            node = below
        for method in site.methods:
            if node.sites.get(method) is site:
                del node.sites[method]
        for above, part in reversed(trail):
            if node.sites or node.fixed or node.one or node.rest:
                break
            if part[0] == ":":
                above.one = None
            elif part[0] == "*":
                above.rest = None
            else:
                del above.fixed[part]
            node = above
        path = site.path.rstrip("/")
        if not self._fixed.get(path or "/", True):
            del self._fixed[path or "/"]
            self._fixed.pop(path + "/", None)

    def find(self, raw_path: str, method: str) -> tuple[Found | None, set[str]]:
        """The site for an encoded path, with its parameters decoded; or the methods that the path
        does have (none: nothing is served there). A GET site answers HEAD too.

        Raises BadMessage for a path that is ambiguous.
        """
        sites = self._fixed.get(raw_path)
        if sites is not None and method in sites:
            return (sites[method], {}), set()
        segments = [decode_segment(part) for part in raw_path[1:].split("/")]
        if segments[-1] == "":
            segments.pop()
        if "" in segments:
            return None, set()
        allowed: set[str] = set()
        for node, values in _matches(self._root, segments, 0):
            site = node.sites.get(method) or (node.sites.get("GET") if method == "HEAD" else None)
            if site is not None:
                return (site, dict(zip(self._parts[site], values, strict=True))), set()
            allowed.update(node.sites)
        return None, allowed

    def __iter__(self) -> Iterator[Site]:
        return iter(self._parts)


def _matches(node: _Node, segments: list[str], at: int) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    """Nodes with sites that match, the most special first, with the values of their parameters.

    Each node of the tree is looked at most once, whatever the path.
    """
    if at == len(segments):
        if node.sites:
            yield node, ()
    else:
        below = node.fixed.get(segments[at])
        if below is not None:
            yield from _matches(below, segments, at + 1)
        if node.one is not None:
            for found, values in _matches(node.one, segments, at + 1):
                yield found, (segments[at], *values)
    if node.rest is not None and node.rest.sites:
        yield node.rest, ("/".join(segments[at:]),)
