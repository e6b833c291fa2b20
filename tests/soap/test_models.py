"""Content models that nobody wrote: whatever sequences, choices and wildcards are nested how often,
nothing is lost. What libxml2 takes for a correct schema, the mapping must be able to do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lxml import etree
from support.wsdl import Feature, canonical, exact, feature_of

from esb.errors import BadMessage
from esb_soap.instances import Instances
from esb_soap.samples import NoSample, Sampler

TYPES = {"a": "xs:int", "b": "xs:string", "c": "t:C", "d": "xs:boolean", "e": "xs:date"}
OCCURS = [(1, 1), (1, 1), (0, 1), (0, None), (1, None), (0, 2), (2, 2), (2, 3), (0, 5)]
ONCE = [(1, 1), (0, 1)]
TAIL = """
  <xs:complexType name="C"><xs:attribute name="n" type="xs:int"/></xs:complexType>
"""

occurs = st.sampled_from(OCCURS)
elements = st.tuples(st.sampled_from(sorted(TYPES)), occurs)
wildcards = st.tuples(st.just("any"), st.sampled_from([*ONCE, (0, None)]))
kinds = st.sampled_from(["sequence", "choice"])
inner = st.tuples(kinds, occurs, st.lists(elements | elements | wildcards, min_size=1, max_size=4))
# No deeper: of loops in loops in loops libxml2 refuses what is right.
groups = st.tuples(kinds, occurs, st.lists(inner | elements, min_size=1, max_size=4))


def spelled(model: Any, around: int | None = 1, path: str = "", *, direct: bool = False) -> str:
    """A content model as XML Schema spells it.

    around: how often what it is in repeats. Inside of what repeats nothing repeats a limited number
    of times: the mapping does not count that; nor anything at all unless `direct`, for of
    ((a+ | b), c?)* a run of a is one item or several. path: where it is, which makes names inside
    of what repeats different, and there are no wildcards: libxml2 does not see that some such
    groups are ambiguous beside each other.
    """
    name, (low, high) = model[0], model[1]
    if around != 1:
        low = min(low, 1)
        high = 1 if high == 1 or around is not None or not direct else None
    many = f'minOccurs="{low}" maxOccurs="{"unbounded" if high is None else high}"'
    if name == "any" and around != 1:
        name, model = "b", ("b", (low, high))
    if name == "any":
        return f'<xs:any namespace="##other" processContents="lax" {many}/>'
    if len(model) == 2:
        return (
            f'<xs:element name="{name}{path if around != 1 else ""}" type="{TYPES[name]}" {many}/>'
        )
    most = None if high is None or around is None else high * around
    children = model[2]
    if name == "sequence" and not {high, around} <= {1, None}:
        children = [("a", (1, 1)), *children]  # else nobody could tell where the next one begins
    within = [
        spelled(one, most, f"{path}_{number}", direct=high != 1)
        for number, one in enumerate(children)
    ]
    return f"<xs:{name} {many}>{''.join(within)}</xs:{name}>"


@given(model=groups, seed=st.integers(0, 2**32))
@settings(
    max_examples=120,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
def test_any_content_model_is_lossless(
    model: Any, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema = f"""
      <xs:element name="it"><xs:complexType>{spelled(model)}</xs:complexType></xs:element>{TAIL}
    """
    it = feature_of(schema, tmp_path_factory.getbasetemp())
    assume(it.wsdl.validator is not None)  # ambiguous, which XML Schema forbids
    [element] = it.message.parts.values()
    rng = random.Random(seed)
    for _ in range(4):
        try:
            data = Sampler(it.wsdl.mapping, "random", rng).element(element)
            node = Instances(it.wsdl.mapping, rng.randrange(10**6)).element(element)
        except NoSample:
            continue
        there_and_back(it, element, data)
        raw = etree.tostring(node)
        assert it.invalid(raw) == []
        read = it.message.codec.read(element, node, "it")
        assert it.refused_by_schema(read) == ""
        assert canonical(it.write(read)) == canonical(raw)
        for key in list(read):
            less = {k: v for k, v in read.items() if k != key}
            refused = refused_by_codec(it, less)
            assert bool(refused) == bool(it.refused_by_schema(less)), (less, refused)
            if not refused:
                there_and_back(it, element, less)


def there_and_back(it: Feature, element: Any, data: Any) -> None:
    assert it.refused_by_schema(data) == "", data
    written = it.write(data)
    assert it.invalid(written) == [], (data, written)
    assert exact(it.message.codec.read(element, etree.fromstring(written), "it")) == exact(data)


def refused_by_codec(it: Feature, data: Any) -> str:
    try:
        it.write(data)
    except BadMessage as e:
        return str(e)
    return ""
