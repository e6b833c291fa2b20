"""`keep` and `remove`: what is named stays, or goes, and everything else is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import compiled, data, mistakes

from esb.envelope import Body, Envelope, Headers
from esb.errors import RouteFailure
from esb.steps._places import kept, parse_place, tree_of, without

ORDER = {
    "id": 5,
    "customer": {"name": "Ada", "card": {"number": "1", "until": "12/30"}},
    "items": [{"sku": "a", "price": 1, "cost": 2}, {"sku": "b", "price": 3}, 7],
    "a.b": {"c/d": 1},
}


@pytest.mark.parametrize(
    ("places", "left"),
    [
        (["id"], {"id": 5}),
        (["customer.name", "id"], {"id": 5, "customer": {"name": "Ada"}}),
        (["customer.card"], {"customer": {"card": {"number": "1", "until": "12/30"}}}),
        (
            ["customer.card.number", "customer.card"],
            {"customer": {"card": ORDER["customer"]["card"]}},
        ),  # type: ignore[index]
        (
            ["customer.card", "customer.card.number"],
            {"customer": {"card": ORDER["customer"]["card"]}},
        ),  # type: ignore[index]
        (["items[].price"], {"items": [{"price": 1}, {"price": 3}]}),
        (["items[]"], {"items": ORDER["items"]}),
        (["/items/1/sku"], {"items": [{"sku": "b"}]}),
        (
            ["/items/0", "items[].sku"],
            {"items": [{"sku": "a", "price": 1, "cost": 2}, {"sku": "b"}]},
        ),
        (["/items/0/cost", "items[].sku"], {"items": [{"sku": "a", "cost": 2}, {"sku": "b"}]}),
        (["/a.b/c~1d"], {"a.b": {"c/d": 1}}),
        (["id.deeper", "nothing", "customer.nothing"], {"customer": {}}),
    ],
)
async def test_what_is_named_stays(places: list[str], left: Any, tmp_path: Path) -> None:
    given = data(ORDER)
    result = await compiled(f"- keep: {places}", tmp_path)(given)
    assert result.body.data == left
    assert given.body.data is ORDER


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("customer.card.number", ("customer", "card", "number")),
        ("customer", ("customer",)),
        ("/items/1", ("items", 1)),
        ("/a.b/c~1d", ("a.b", "c/d")),
    ],
)
async def test_what_is_named_goes(place: str, at: tuple[Any, ...], tmp_path: Path) -> None:
    import copy

    left: Any = copy.deepcopy(ORDER)
    holder = left
    for key in at[:-1]:
        holder = holder[key]
    del holder[at[-1]]
    result = await compiled(f"- remove: ['{place}', no.such.place]", tmp_path)(data(ORDER))
    assert result.body.data == left


async def test_of_each_item_of_a_list_it_goes(tmp_path: Path) -> None:
    result = await compiled("- remove: ['[].a', '[].b.c']", tmp_path)(
        data([{"a": 1, "x": 2}, {"b": {"c": 3, "d": 4}}, 5])
    )
    assert result.body.data == [{"x": 2}, {"b": {"d": 4}}, 5]


KEYS = st.sampled_from(["a", "b", "c"])
DATA = st.recursive(
    st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
PLACES = st.lists(
    st.lists(KEYS | st.sampled_from(["[]", "0", "1"]), min_size=1, max_size=4), max_size=5
)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(value, dict):
        return {k: v for key in value for k, v in leaves(value[key], (*at, key)).items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, (*at, i)).items()}
    return {at: value}


def named(at: tuple[Any, ...], place: list[str]) -> bool:
    return len(place) <= len(at) and all(
        key == here if isinstance(here, str) else key in ("[]", str(here))
        for here, key in zip(at, place, strict=False)
    )


@given(DATA, PLACES)
def test_each_value_is_kept_or_removed_as_its_place_is_named(
    value: Any, places: list[list[str]]
) -> None:
    tree = tree_of(places)
    stay = [v for at, v in leaves(value).items() if any(named(at, p) for p in places)]
    go = [v for at, v in leaves(value).items() if not any(named(at, p) for p in places)]
    if isinstance(value, dict | list):
        assert list(leaves(kept(value, tree)).values()) == stay
        assert list(leaves(without(value, tree)).values()) == go


@pytest.mark.parametrize("text", ["", ".a", "a.", "a..b", "a[0]", "a[", "a]b", "[]a"])
def test_what_names_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="names no place"):
        parse_place(text)


async def test_headers(tmp_path: Path) -> None:
    given = data(ORDER, headers=Headers([("X-A", "1"), ("x-b", "2"), ("Y", "3"), ("X-A", "4")]))
    keep = await compiled("- keep: {headers: [x-a, y]}", tmp_path)(given)
    assert list(keep.headers) == [("X-A", "1"), ("Y", "3"), ("X-A", "4")]
    assert keep.body is given.body
    remove = await compiled("- remove: {headers: ['x-*']}", tmp_path)(given)
    assert list(remove.headers) == [("Y", "3")]
    both = await compiled("- keep: {headers: [y], fields: [id]}", tmp_path)(given)
    assert (list(both.headers), both.body.data) == ([("Y", "3")], {"id": 5})


class TestXml:
    ORDER = (
        b'<o:order xmlns:o="urn:o" id="5" secret="x">in<customer>Ada</customer>-tail-'
        b"<card number='1'><until>12/30</until></card><!-- note --><items><item>a</item>,"
        b"<item>b</item></items></o:order>"
    )

    async def run(self, steps: str, folder: Path) -> str:
        message = Envelope(body=Body(self.ORDER, "application/xml"))
        result = await compiled(steps, folder)(message)
        again = await compiled("- keep: {xpath: [/*]}", folder)(message)
        from lxml import etree

        for untouched in (message, again):
            assert etree.tostring(untouched.body.data, method="c14n") == etree.tostring(
                etree.fromstring(self.ORDER), method="c14n"
            )
        return etree.tostring(result.body.data).decode()

    async def test_what_is_named_goes(self, tmp_path: Path) -> None:
        steps = """
            - remove:
                xpath: ["/o:order/@secret", //card, //item/text(), "//comment()"]
                namespaces: {o: "urn:o"}
        """
        assert await self.run(steps, tmp_path) == (
            '<o:order xmlns:o="urn:o" id="5">in<customer>Ada</customer>-tail-'
            "<items><item/>,<item/></items></o:order>"
        )

    async def test_what_is_named_stays(self, tmp_path: Path) -> None:
        steps = "- keep: {xpath: ['/*/@id', //until, '//item[2]', //customer/text()]}"
        assert await self.run(steps, tmp_path) == (
            '<o:order xmlns:o="urn:o" id="5"><customer>Ada</customer>'
            "<card><until>12/30</until></card><items><item>b</item></items></o:order>"
        )

    async def test_the_root_cannot_go(self, tmp_path: Path) -> None:
        with pytest.raises(RouteFailure, match="root"):
            await self.run("- remove: {xpath: [/*]}", tmp_path)


async def test_the_wrong_kind_of_body_is_an_error(tmp_path: Path) -> None:
    fields = compiled("- keep: [a]", tmp_path)
    with pytest.raises(RouteFailure, match="the body is XML"):
        await fields(Envelope(body=Body(b"<a/>", "application/xml")))
    xpath = compiled("- remove: {xpath: [//a, 'count(//a)']}", tmp_path)
    with pytest.raises(RouteFailure, match="the body is no XML"):
        await xpath(data({}))
    with pytest.raises(RouteFailure, match="computes a value"):
        await xpath(Envelope(body=Body(b"<a><b/></a>", "application/xml")))


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    steps = """
        - keep: {}
        - remove: [ok, "a[0]"]
        - keep: {xpath: ["//a["]}
        - keep: {xpath: ["//x:a"]}
        - keep: {xpath: [//a], fields: [a]}
    """
    found = mistakes(steps, tmp_path)
    assert found[0] == "6: nothing is named ([customer.name, items[].price])"
    assert found[1].startswith("7: 'a[0]' names no place")
    assert found[2] == "8: no XPath that can run: invalid expression"
    assert found[3] == "9: no XPath that can run: undefined namespace prefix"
    assert found[4] == "10: a body is either data or XML: 'fields' or 'xpath'"
