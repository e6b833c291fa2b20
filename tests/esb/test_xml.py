"""The hardened parser against the classic attacks on XML parsers."""

from __future__ import annotations

import time

import pytest

from esb.errors import BadMessage, TooLarge
from esb.xml import MAX_ATTRIBUTES, parse_xml

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
