"""What must hold for every instance of every feature: nothing is lost, everything is valid, and
JSON Schema and codec agree on what is refused."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lxml import etree
from support.wsdl import FEATURES, Feature, canonical, exact
from support.wsdl import feature as load_feature

from esb.codecs.json import dumps, loads
from esb.errors import BadMessage
from esb_soap.certify import certify
from esb_soap.components import Element
from esb_soap.instances import Instances
from esb_soap.samples import NoSample, Sampler

feature = functools.cache(load_feature)

DOCUMENTS = sorted(path.stem for path in FEATURES.glob("*.wsdl"))

KEYED = {"identity"}
"""Features with keys, which made-up values do not honour."""

seeds = st.integers(0, 2**32)
each_feature = pytest.mark.parametrize("name", DOCUMENTS)
often = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)


def only_element(it: Feature) -> Element:
    [element] = it.message.parts.values()
    return element


def sample(it: Feature, seed: int) -> Any:
    rng = random.Random(seed)
    try:
        return Sampler(it.wsdl.mapping, "random", rng).element(only_element(it))
    except NoSample:
        assume(False)


def refused(it: Feature, data: Any) -> str:
    """Why the codec refuses data, "" if it takes them."""
    try:
        it.write(data)
    except BadMessage as e:
        return e.errors[0]["detail"]
    return ""


@each_feature
@given(seed=seeds)
@often
def test_data_come_back_from_xml_that_is_valid(name: str, seed: int) -> None:
    it = feature(name)
    data = sample(it, seed)
    assert it.refused_by_schema(data) == ""
    written = it.write(data)
    if name not in KEYED:
        assert it.invalid(written) == []
    element = only_element(it)
    assert exact(it.message.codec.read(element, etree.fromstring(written), "it")) == exact(data)


@each_feature
@given(seed=seeds)
@often
def test_json_changes_nothing(name: str, seed: int) -> None:
    it = feature(name)
    data = sample(it, seed)
    assert it.write(loads(dumps(data))) == it.write(data)


@each_feature
@given(seed=seeds)
@often
def test_xml_comes_back_from_data(name: str, seed: int) -> None:
    it = feature(name)
    element = only_element(it)
    try:
        node = Instances(it.wsdl.mapping, seed).element(element)
    except NoSample:
        assume(False)
    raw = etree.tostring(node)
    if name not in KEYED:
        assert it.invalid(raw) == []
    data = it.message.codec.read(element, node, "it")
    assert it.refused_by_schema(data) == ""
    assert canonical(it.write(data)) == canonical(raw)


@each_feature
def test_each_feature_is_certified(name: str) -> None:
    report = certify(FEATURES / f"{name}.wsdl")
    assert report.exceptions == []
    assert report.certified == report.operations > 0


# --- what is wrong is refused, by JSON Schema and codec alike ------------------------------------

WILD = {"wildcards", "wild-attributes", "any-type"}
"""Features in which almost anything may stand."""


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in data."""
    yield path
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from places(data[key], (*path, key))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    """What is at a path."""
    for key in path:
        data = data[key]
    return data


def changed(data: Any, rng: random.Random) -> tuple[Any, bool]:
    """Data with one thing wrong that was right, and whether it is wrong in any case."""
    data = copy.deepcopy(data)
    path = rng.choice(list(places(data)))
    here = at(data, path)
    if isinstance(here, dict) and (not here or rng.random() < 0.3):
        here["unheard-of"] = 1
        return data, True
    if isinstance(here, list) and here and rng.random() < 0.7:
        # Too many or too few, perhaps.
        if rng.random() < 0.5:
            here.pop(rng.randrange(len(here)))
        else:
            here.append(copy.deepcopy(rng.choice(here)))
        return data, False
    if not path:
        return [data], True
    parent, key = at(data, path[:-1]), path[-1]
    if isinstance(key, str) and rng.random() < 0.6:
        del parent[key]  # it may have been there without need
        return data, False
    parent[key] = {"unheard-of": 1} if isinstance(here, list) else [{}]
    return data, True


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in WILD])
@given(seed=seeds)
@settings(often, max_examples=100)
def test_what_is_wrong_is_refused_by_both(name: str, seed: int) -> None:
    it = feature(name)
    data, wrong = changed(sample(it, seed), random.Random(seed))
    codec, schema = refused(it, data), it.refused_by_schema(data)
    assert bool(codec) == bool(schema), (data, codec, schema)
    assert codec or not wrong, data
