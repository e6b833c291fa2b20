"""The hardened parser against the classic attacks on XML parsers."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from esb.errors import BadMessage, TooLarge
from esb.xml import MAX_ATTRIBUTES, StreamedXml, parse_soap_header, parse_xml

XXE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
PARAMETER = '<!DOCTYPE a [<!ENTITY % d SYSTEM "http://127.0.0.1:1/e.dtd">%d;]><a/>'
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]><a>&l9;</a>"
)
QUADRATIC = f'<!DOCTYPE a [<!ENTITY x "{"y" * 100_000}">]><a>{"&x;" * 2000}</a>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-7", "iso-8859-1"])
@pytest.mark.parametrize(
    "document",
    [
        XXE,
        PARAMETER,
        LAUGHS,
        QUADRATIC,
        "<!DOCTYPE a><a/>",
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        '<!DOCTYPE a PUBLIC "-//X" "http://127.0.0.1:1/x.dtd"><a/>',
    ],
)
def test_a_doctype_is_refused_in_any_encoding(document: str, encoding: str) -> None:
    declared = f'<?xml version="1.0" encoding="{encoding}"?>{document}'.encode(encoding)
    started = time.perf_counter()
    with pytest.raises(BadMessage) as e:
        parse_xml(declared)
    assert time.perf_counter() - started < 1
    assert "root:" not in str(e.value)


def attributes(count: int, quote: str = '"') -> str:
    return " ".join(f"a{n}={quote}>{quote}" for n in range(count))


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ("<a>" * 100_000, BadMessage),
        ("<a>" * 300 + "</a>" * 300, BadMessage),
        (f"<a>{'x' * 11_000_000}</a>", BadMessage),
        (f"<a>{'<a/>' * 1_000_000}</a>", TooLarge),
        (f"<a {attributes(100_000)}/>", TooLarge),
        (f"<a {attributes(20_000, chr(39))}/>", TooLarge),
        (f"<a><b/><!-- {'=' * 50_000} --><c {attributes(20_000)}>x</c></a>", TooLarge),
        ("<a " + " ".join(f'xmlns:a{n}="u{n}"' for n in range(20_000)) + "/>", TooLarge),
        (f"<a {attributes(100_000)}", TooLarge),
    ],
)
def test_deep_wide_and_long_documents_are_refused(document: str, error: type[BadMessage]) -> None:
    for encoding in ("utf-8", "utf-16"):
        started = time.perf_counter()
        with pytest.raises(error):
            parse_xml(document.encode(encoding))
        assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    "document",
    [
        f"<a>{'=' * 1_000_000}</a>",
        f"<a>{'<b>' + '=' * 900 + '</b>'}</a>" * 1,
        "<a>" + ("<b>" + "=" * 900 + "</b>") * 1000 + "</a>",
        f"<a><![CDATA[{'x=1 ' * 100_000}]]></a>",
        f"<a><!--{'=' * 100_000}--></a>",
        f"<a>x &gt; {'k=&quot;v&quot; ' * 20_000}</a>",
        f"<a {attributes(MAX_ATTRIBUTES)}>{'=' * 100_000}</a>",
        f"<a b='{'=' * 100_000}'/>",
        "<a>" + "<b c='1' d='2'>text</b>" * 50_000 + "</a>",
        "<a>'\"" + "'=" * 100_000 + "</a>",
    ],
)
def test_big_documents_that_are_none_of_these_pass(document: str) -> None:
    started = time.perf_counter()
    assert parse_xml(document.encode()).tag == "a"
    assert time.perf_counter() - started < 3


def test_the_declared_charset_wins_over_the_declaration_and_the_mark_over_both() -> None:
    latin = '<?xml version="1.0" encoding="utf-8"?><a>é</a>'.encode("latin-1")
    assert parse_xml(latin, charset="iso-8859-1").text == "é"
    marked = '<?xml version="1.0" encoding="utf-16"?><a>é</a>'.encode("utf-16")
    assert parse_xml(marked, charset="utf-8").text == "é"
    with pytest.raises(BadMessage, match="unknown charset"):
        parse_xml(b"<a/>", charset="nope")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<a>\n<b></a>", "line 2"),
        (b"{}", "line 1, column 1"),
        (b"<a/><b/>", "not well-formed"),
        (b"<a>&nbsp;</a>", "not well-formed"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"\x00\x00", "not well-formed"),
    ],
)
def test_what_is_not_xml_is_refused_with_its_place(raw: bytes, message: str) -> None:
    with pytest.raises(BadMessage) as e:
        parse_xml(raw, what="the reply")
    assert str(e.value).startswith("the reply")
    assert message in str(e.value)


@pytest.mark.parametrize("before", [0, 200])
@pytest.mark.parametrize("hidden", ["<p:c/>", '<c p:d="1"/>', "<b><p:c p:d='1'/></b>"])
def test_a_warning_does_not_hide_an_undeclared_prefix(hidden: str, before: int) -> None:
    warned = '<w xmlns="relative"/>'
    assert len(parse_xml(f"<a>{warned * before}{warned}</a>".encode())) == before + 1
    with pytest.raises(BadMessage, match=r"line 1.*amespace prefix p"):
        parse_xml(f"<a>{warned * before}{hidden}{warned}</a>".encode())


TWICE = '<c xmlns:x="urn:1" xmlns:y="urn:1" x:a="1" y:a="2"/>'


@pytest.mark.parametrize("hidden", [TWICE, "<p:c/>", '<c xmlns:xml="urn:1"/>'])
def test_a_warning_hides_nothing_that_breaks_namespaces(hidden: str) -> None:
    document = f'<a>{hidden}<w xmlns="relative"/></a>'.encode()
    with pytest.raises(BadMessage, match="not well-formed XML at line 1"):
        parse_xml(document)
    streamed = StreamedXml("w")
    pieces = (document[at : at + 7] for at in range(0, len(document) + 7, 7))
    with pytest.raises(BadMessage, match="not well-formed XML at line 1"):
        list(itertools.chain.from_iterable(map(streamed.feed, pieces)))


def test_threads_parse_at_the_same_time() -> None:
    document = "<a>" + "<b>x</b>" * 1000 + "</a>"
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(parse_xml(document.encode()))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1000] * 8


def test_what_was_refused_leaves_nothing_for_the_next() -> None:
    for bad in (b"<a><b>", b"<!DOCTYPE a><a/>", b"<a xmlns:n='urn:n'><n:b></a>"):
        with pytest.raises(BadMessage):
            parse_xml(bad)
        assert etree.tostring(parse_xml(b"<c/>")) == b"<c/>"


# --- the header of a SOAP envelope ---------------------------------------------------------------

SOAP_11, SOAP_12 = (
    "http://schemas.xmlsoap.org/soap/envelope/",
    "http://www.w3.org/2003/05/soap-envelope",
)


def envelope(header: str, body: str = "<s:Body><x/></s:Body>", ns: str = SOAP_11) -> str:
    return f'<s:Envelope xmlns:s="{ns}">{header}{body}</s:Envelope>'


@pytest.mark.parametrize("ns", [SOAP_11, SOAP_12])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_the_header_of_an_envelope(ns: str, encoding: str) -> None:
    header = '<s:Header><r:to xmlns:r="urn:r">Bär</r:to></s:Header>'
    name = encoding.removesuffix("-sig")
    raw = f'<?xml version="1.0" encoding="{name}"?>\n{envelope(header, ns=ns)}'.encode(encoding)
    found = parse_soap_header(raw)
    assert found.tag == f"{{{ns}}}Header"
    assert found.findtext("{urn:r}to") == "Bär"
    # It stands in an envelope without a Body, so that no path leads there.
    assert [child.tag for child in found.getroottree().getroot()] == [found.tag]


def test_what_follows_the_header_is_not_parsed() -> None:
    header = "<s:Header><to>a</to></s:Header>"
    for body in ("<s:Body>", "<s:Body><x></y></s:Body>", "<s:Body>" + "<x>" * 100_000):
        assert parse_soap_header(envelope(header, body).encode()).findtext("to") == "a"


@pytest.mark.parametrize(
    "document",
    [
        envelope(""),
        envelope("<s:Header/>"),
        envelope("<!-- <s:Header><to>b</to></s:Header> -->"),
        f'<Envelope xmlns="{SOAP_12}"><Body><Header><to>b</to></Header></Body></Envelope>',
    ],
)
def test_no_header_is_one_without_blocks(document: str) -> None:
    found = parse_soap_header(document.encode())
    assert found.tag.endswith("}Header")
    assert len(found) == 0


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "is empty"),
        ("<a/>", "no SOAP envelope but an element 'a'"),
        ('<s:Envelope xmlns:s="urn:other"><s:Body/></s:Envelope>', "no SOAP envelope"),
        ("<s:Envelope><s:Body/></s:Envelope>", "s"),
        (envelope("<s:Header/><s:Header><to>b</to></s:Header>"), "'Header' out of place"),
        (envelope("<x/><s:Header/>"), "'x' out of place"),
        (envelope("<s:Header><to></s:Header>"), "not well-formed XML at line 1"),
        (envelope("<s:Header>&x;</s:Header>"), "not well-formed"),
        (f"<!DOCTYPE a>{envelope('<s:Header/>')}", "DOCTYPE"),
        (f'<!DOCTYPE a [<!ENTITY x "y">]>{envelope("<s:Header>&x;</s:Header>")}', "DOCTYPE"),
        (envelope(f"<s:Header>{'<a>' * 300}{'</a>' * 300}</s:Header>"), "well-formed"),
        (envelope(f"<s:Header><a {attributes(20_000)}/></s:Header>"), "attributes"),
    ],
)
def test_envelopes_that_are_refused(document: str, message: str) -> None:
    with pytest.raises(BadMessage, match=message):
        parse_soap_header(document.encode())


_pieces = st.sampled_from(
    ["<s:Body>", "</s:Body>", "<s:Body/>", "<s:Header>", "</s:Header>", "<Body/>", "<b>", "</b>",
     "<s:Bodyguard/>", "<b a='&lt;s:Body>'/>", "<!--", "-->", "<![CDATA[", "]]>", "<?p", "?>", "<",
     '<b xmlns:s="urn:other"><s:Body/></b>', "<Body xmlns='urn:other'>", "</Body>", "text", " ",
     "&amp;", "&#x3c;", "é", "<é/>", "\r\n", "<!DOCTYPE a>", '<b xmlns="urn:b"><Header/></b>']
)  # fmt: skip
_header = st.lists(_pieces, max_size=8).map("".join)


def canonical(element: etree._Element) -> bytes:
    return etree.tostring(element, method="c14n", with_tail=False)


def as_it_arrives(raw: bytes) -> Iterator[bytes]:
    """The children of the root that have ended until something is wrong."""
    pull: Any = etree.XMLPullParser(("end",), resolve_entities=False)
    with contextlib.suppress(etree.XMLSyntaxError):
        for byte in raw:
            pull.feed(bytes((byte,)))
            for _, element in pull.read_events():
                parent = element.getparent()
                if parent is not None and parent.getparent() is None:
                    yield canonical(element)


@given(
    before=st.sampled_from(["", "<!-- <s:Envelope> -->", '<?xml version="1.0"?>', "\n", "\ufeff"]),
    ns=st.sampled_from([SOAP_11, SOAP_12, "urn:other"]),
    prefix=st.sampled_from(["s:", "", "S-1.x:", "é:"]),
    header=st.one_of(_header, _header.map(lambda inner: f"<s:Header>{inner}</s:Header>")),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_a_header_is_that_of_the_whole_document(
    before: str, ns: str, prefix: str, header: str, encoding: str
) -> None:
    """Whatever stands before the Body, what is read is what a parser sees that gets all of it."""
    declared = f'xmlns:{prefix[:-1]}="{ns}"' if prefix else f'xmlns="{ns}"'
    document = f"<s:Envelope {declared}>{header}<s:Body><x/></s:Body></s:Envelope>"
    raw = (before + document.replace("<s:", f"<{prefix}").replace("</s:", f"</{prefix}")).encode(
        encoding
    )
    try:
        root = parse_xml(raw)
    except BadMessage:
        # What is wrong may be in what was not looked at. It is never more than that.
        try:
            seen = parse_soap_header(raw)
        except BadMessage:
            return
        assert not len(seen) or canonical(seen) == next(as_it_arrives(raw), None)
        return
    children = list(root.iterchildren("*"))
    tags = [child.tag for child in children]
    at = tags.index(f"{{{ns}}}Body") if f"{{{ns}}}Body" in tags else len(tags)
    try:
        found = parse_soap_header(raw)
    except BadMessage:
        assert ns == "urn:other" or tags[:at] not in ([], [f"{{{ns}}}Header"])
        return
    assert tags[:at] in ([], [found.tag])
    expected = children[0] if at else etree.SubElement(root, found.tag)
    assert canonical(found) == canonical(expected)


NAMES = """
import re, sys
from pathlib import Path
from esb.xml import StreamedXml, parse_xml

def memory():
    return int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

number = 0
def document():
    global number
    number += 8_000
    names = (f"n{i:040d}" for i in range(number, number + 8_000))
    return ("<o><k>a</k>" + "".join(f"<{name}/>" for name in names) + "</o>").encode()

open_stream = StreamedXml("k") if "stream" in sys.argv else None
list(open_stream.feed(b"<o><k>") if open_stream else ())
kept = [parse_xml(document()) for _ in range(3)]
before = memory()
for _ in range(250):
    assert parse_xml(document()).findtext("k") == "a"
if open_stream:
    assert [event for event, _ in open_stream.feed(b"</k></o>")] == ["end"]
    list(open_stream.feed(b""))
    for _ in range(50):
        parse_xml(document())
assert [root.findtext("k") for root in kept] == ["a"] * 3
print(memory() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc")
def test_names_that_nobody_sends_again_are_forgotten() -> None:
    found = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 60, "of 90 MB of names"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc")
def test_names_are_kept_while_a_document_is_read_piece_by_piece() -> None:
    found = subprocess.run([sys.executable, "-c", NAMES, "stream"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_attributes_count_as_elements_do() -> None:
    attributes = " ".join(f'a{i}=""' for i in range(900))
    tag = f"<a {attributes}/>"
    with pytest.raises(TooLarge, match="elements and attributes"):
        parse_xml(f"<o>{tag * 600}</o>".encode())


@pytest.mark.parametrize("charset", ["utf-7", "iso-2022-jp", "hz"])
def test_charsets_of_documents_are_those_of_texts(charset: str) -> None:
    declared = f'<?xml version="1.0" encoding="{charset}"?>'.encode() + "<a>b</a>".encode(charset)
    with pytest.raises(BadMessage, match=r"charset|encoding"):
        parse_xml(declared)
    with pytest.raises(BadMessage, match="charset"):
        parse_xml(b"<a>b</a>", charset=charset)
