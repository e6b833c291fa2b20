"""What zeep, a SOAP library that is not ours, makes of the same documents: it reads what we write
and writes what we read. Left out is what zeep 4.3 gets wrong: a nil at the end of an array, some
choices with elements that repeat, attributes of one name in two namespaces, lists of unions,
wildcards before other elements, substitution groups, mixed content, defaults, INF, hexBinary.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import zeep
from lxml import etree
from support.wsdl import FEATURES, Feature, canonical, element
from support.wsdl import feature as load_feature
from zeep.transports import Transport

feature = functools.cache(load_feature)


class Offline(Transport):  # type: ignore[misc]
    """Fetches nothing."""

    def _load_remote_data(self, url: str) -> bytes:
        raise AssertionError(url)


@functools.cache
def zeeps(name: str) -> Any:
    return zeep.Client(str(FEATURES / f"{name}.wsdl"), transport=Offline())


DOCUMENTS = [
    ("simple-content", '<it><price cur="EUR">10.50</price><plain>5</plain></it>'),
    ("arrays", "<it><any>1</any><any>2</any><some>a</some><few>true</few><few>false</few></it>"),
    ("nillable", '<it><must xsi:nil="true"/><many>2026-11-24</many></it>'),
    ("numbers", "<it><decimal>-0.10</decimal><long>9223372036854775807</long></it>"),
    ("choice", "<it><street>x</street><city>y</city><mark>1</mark></it>"),
    ("all", "<it><a>1</a><b>x</b><c>true</c></it>"),
    (
        "extension",
        '<it><who id="1"><name>a</name></who><who xsi:type="t:Manager" id="2" level="3">'
        "<name>c</name><team>x</team><team>y</team></who></it>",
    ),
    ("restriction", '<it><free checked="true"><street>a</street></free></it>'),
    (
        "abstract-type",
        '<it><shape xsi:type="t:Square"><side>2.0</side></shape>'
        '<shape xsi:type="t:Circle"><label>o</label><r>1.5</r></shape></it>',
    ),
    (
        "recursion",
        "<it><name>/</name><folder><name>a</name><folder><name>b</name></folder></folder></it>",
    ),
    ("no-namespace", '<it><thing xmlns="" n="1"><a>2</a></thing></it>'),
    (
        "namespaces",
        '<it><id>2</id><u:id>y</u:id><plain xmlns="">3</plain><mine><a>4</a></mine>'
        '<theirs><b xmlns="">5</b><u:c>6</u:c></theirs></it>',
    ),
]


def rendered(name: str, document: etree._Element) -> etree._Element:
    """The document, read and written by zeep."""
    client = zeeps(name)
    it = client.get_element("{urn:t}it")
    holder = etree.Element("holder")
    it.render(holder, it.parse(document, client.wsdl.types))
    return holder[0]


@pytest.mark.parametrize(
    ("name", "xml"), [pytest.param(*row, id=f"{row[0]}-{n}") for n, row in enumerate(DOCUMENTS, 1)]
)
def test_zeep_agrees(name: str, xml: str) -> None:
    it: Feature = feature(name)
    ours = it.write(it.read(xml))
    assert canonical(ours) == canonical(element(xml))
    theirs = rendered(name, etree.fromstring(ours))
    assert canonical(theirs) == canonical(ours)
    assert it.message.codec.read(it.element, theirs, "it") == it.read(xml)
