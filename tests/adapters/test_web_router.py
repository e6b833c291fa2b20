"""The router: which site answers, told by a slow model of the same rules."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.web import site

from esb.errors import BadMessage
from esb_web import Site
from esb_web.router import Router, normal_path


def router(*paths: str, method: str = "GET") -> tuple[Router, dict[str, Site]]:
    found, sites = Router(), {}
    for path in paths:
        sites[path] = site(path, method)
        found.add(sites[path])
    return found, sites


def test_the_most_special_path_wins() -> None:
    paths = ("/", "/a", "/a/:id", "/a/b", "/a/:id/c", "/a/*rest", "/:x/b", "/*all")
    found, _ = router(*paths)
    for path, (expected, values) in {
        "/": ("/", {}),
        "/a": ("/a", {}),
        "/a/": ("/a", {}),
        "/a/b": ("/a/b", {}),
        "/a/x": ("/a/:id", {"id": "x"}),
        "/a/x/c": ("/a/:id/c", {"id": "x"}),
        "/a/x/d": ("/a/*rest", {"rest": "x/d"}),
        "/a/b/d/e": ("/a/*rest", {"rest": "b/d/e"}),
        "/z/b": ("/:x/b", {"x": "z"}),
        "/z/c": ("/*all", {"all": "z/c"}),
        "/z": ("/*all", {"all": "z"}),
    }.items():
        match, _ = found.find(path, "GET")
        assert match is not None, path
        assert (match[0].path, match[1]) == (expected, values)


def test_the_method_decides_among_sites_that_match() -> None:
    found = Router()
    fixed, parameter, get = site("/a/b", "PUT"), site("/a/:id", "POST"), site("/a/:id", "GET")
    for one in (fixed, parameter, get):
        found.add(one)
    assert found.find("/a/b", "POST") == ((parameter, {"id": "b"}), set())
    assert found.find("/a/b", "PUT") == ((fixed, {}), set())
    assert found.find("/a/b", "HEAD") == ((get, {"id": "b"}), set())
    assert found.find("/a/b", "PATCH") == (None, {"PUT", "POST", "GET"})


def test_sites_are_replaced_and_removed() -> None:
    found = Router()
    old, new = site("/a/:id", "GET", "PUT"), site("/a/:other", "GET")
    found.add(old)
    found.add(new)
    assert found.find("/a/1", "GET")[0] == (new, {"other": "1"})
    assert found.find("/a/1", "PUT")[0] == (old, {"id": "1"})
    found.remove(old)
    assert found.find("/a/1", "GET")[0] == (new, {"other": "1"})
    assert found.find("/a/1", "PUT") == (None, {"GET"})
    found.remove(old)
    found.remove(new)
    assert found.find("/a/1", "GET") == (None, set())
    assert list(found) == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("a", "slash"), ("", "slash"), ("/a//b", "empty"), ("/a/../b", "dot"), ("/{id}", ":id"),
        ("/a/{order-id}", ":order-id"), ("/:", "parameter"), ("/:a-b", "parameter"),
        ("/:a/:a", "twice"), ("/*rest/b", "last"), ("/a?b", "without"), ("/a b", "without"),
        ("/a%20b", "decoded"), ("/a\\b", "backslash"),
    ],
)  # fmt: skip
def test_a_path_that_is_none(path: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        normal_path(path)


def test_paths_that_serve_the_same_are_told() -> None:
    assert normal_path("/a/:id/*rest") == normal_path("/a/:name/*more/") == "/a/:/*"
    assert normal_path("/") == "/"
    assert normal_path("/a") != normal_path("/:a")


NAMES = st.sampled_from(["a", "b", "docs", "äö", "x.y"])
PART = st.one_of(NAMES, st.sampled_from([":p", ":q"]))


@st.composite
def site_paths(draw: st.DrawFn) -> str:
    parts = draw(st.lists(PART, max_size=4))
    seen: list[str] = []
    for part in parts:
        seen.append(f"{part}{len(seen)}" if part[0] == ":" else part)
    if draw(st.booleans()):
        seen.append("*rest")
    return "/" + "/".join(seen)


def model(paths: list[str], segments: list[str]) -> str | None:
    """The rules in words: compare segment by segment, fixed before parameter before rest."""
    best: tuple[list[int], str] | None = None
    for path in paths:
        parts = path[1:].split("/") if path != "/" else []
        rest = bool(parts) and parts[-1][0] == "*"
        fixed = parts[:-1] if rest else parts
        if len(segments) < len(fixed) or (not rest and len(segments) != len(fixed)):
            continue
        pairs = list(zip(fixed, segments, strict=False))
        if any(part[0] != ":" and part != segment for part, segment in pairs):
            continue
        rank = [1 if part[0] == ":" else 0 for part in fixed] + ([2] if rest else [])
        if best is None or rank < best[0]:
            best = (rank, path)
    return best[1] if best else None


@given(st.lists(site_paths(), max_size=12), st.lists(NAMES, max_size=6), st.booleans())
def test_like_the_model(paths: list[str], segments: list[str], slash: bool) -> None:
    unique = list({normal_path(path): path for path in paths}.values())
    found, sites = router(*unique)
    asked = (
        "/" + "/".join(quote(s, safe="") for s in segments) + ("/" if slash and segments else "")
    )
    match, allowed = found.find(asked, "GET")
    expected = model(unique, segments)
    assert (match[0].path if match else None) == expected
    assert not allowed
    if match and expected:
        written = re.sub(r"[:*](\w+)", lambda m: match[1][m[1]], expected)
        assert written.rstrip("/") == ("/" + "/".join(segments)).rstrip("/")
    # Without what answered, the next best does; without all of them, nothing.
    for one in sites.values():
        found.remove(one)
    assert found.find(asked, "GET") == (None, set())
    root = found._root
    assert [root.sites, root.fixed, root.one, root.rest, found._fixed] == [{}, {}, None, None, {}]


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_any_path_is_answered_or_refused(text: str) -> None:
    found, _ = router("/", "/:a", "/:a/:b", "/*rest")
    try:
        match, _ = found.find("/" + text, "GET")
    except BadMessage:
        return
    for value in match[1].values() if match else ():
        assert not {".", ".."} & set(value.split("/"))
        assert not re.search(r"[\x00-\x1f\x7f\\]", value)
