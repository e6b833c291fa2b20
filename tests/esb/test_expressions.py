"""Expressions: what they mean, what they refuse at load with which help, what they cannot do."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.expressions import (
    ExpressionError,
    Missing,
    compile_expression,
    compile_text,
    queries,
)
from esb.xml import parse_soap_header

ORDER = b"""{"amount": 10000.50, "name": "Ann", "customer": null, "vip": true, "keys": 3,
  "items": [{"sku": "a", "qty": 2, "price": 1.10}, {"sku": "b", "qty": 3, "price": 0.10}],
  "x": {"y": 1, "with-dash": "d"}, "__class__": "data"}"""
JSON = Envelope(
    id="m1",
    principal="ann",
    body=Body(ORDER, "application/json"),
    headers=Headers([("X-A", "1"), ("Retries", 3)]),
    params={"path": {"id": "7"}, "query": {"n": "5"}, "amqp": {"routing_key": "a.b"}},
)
XML = Envelope(
    body=Body(
        b'<o xmlns="urn:o" xmlns:xs="urn:xs"><a id="1">10.50</a><a id="2" t="xs:int">3</a>'
        b"<s>it's</s></o>",
        "application/xml",
    )
)


def evaluate(source: str, envelope: Envelope = JSON) -> Any:
    return compile_expression(source)(envelope)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        # data, never attributes or methods
        ("body.amount > 10000", True),
        ("body.items[0].sku", "a"),
        ("body.items.1.sku", "b"),
        ("body['items'][-1]['qty']", 3),
        ("body.items | length", 2),
        ("{'a': 1, 'b': 2} | values", [1, 2]),
        ("body.keys", 3),
        ("body.__class__", "data"),
        ("body.x['with-dash']", "d"),
        ("body['a' ~ 'mount']", Decimal("10000.50")),
        ("[1, 2, 3][1:]", [2, 3]),
        ("'abc'[0]", "a"),
        ("headers['x-a']", "1"),
        ("headers.Retries + 1", 4),
        ("'X-a' in headers", True),
        ("path.id", "7"),
        ("query.n | int == 5", True),
        ("amqp.routing_key", "a.b"),
        ("message.id", "m1"),
        ("message.principal", "ann"),
        ("message['attempt']", 1),
        ("text | length > 10", True),
        ("now().year > 2000", True),
        ("uuid() | length", 36),
        # exact numbers
        ("body.items[1].price == 0.1", True),
        ("0.1 + 0.2 == 0.3", True),
        ("body.items | sum(attribute='price')", Decimal("1.20")),
        ("body.items | map(attribute='price') | sum", Decimal("1.20")),
        ("body.amount * 3", Decimal("30001.50")),
        ("123456789012345678901234567890.5 + 1", Decimal("123456789012345678901234567891.5")),
        ("10 / 4", Decimal("2.5")),
        ("1 / 3", Decimal("0." + "3" * 34)),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("-7.5 // 2", Decimal(-4)),
        ("-7 % 3", 2),
        ("-7.5 % 2", Decimal("0.5")),
        ("2 ** 10", 1024),
        ("2 ** -1", Decimal("0.5")),
        ("-body.amount", Decimal("-10000.50")),
        ("2.675 | round(2)", Decimal("2.68")),
        ("2.5 | round", Decimal(3)),
        ("1 == 1.0", True),
        ("'12' | int + 1", 13),
        ("' 1.10 ' | decimal", Decimal("1.10")),
        ("'x' | int(0)", 0),
        ("'x' | decimal(default=1)", 1),
        ("1.9 | int", 1),
        # logic
        ("body.vip and body.x.y == 1", True),
        ("not body.vip or 'x'", "x"),
        ("'yes' if body.vip else 'no'", "yes"),
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("'a' in ['a', 'b']", True),
        ("0.5 in [0.50]", True),
        ("'z' not in body", True),
        ("body.customer is none", True),
        ("body.x.y is number and body.name is string", True),
        ("body.items | selectattr('qty', 'gt', 2) | map(attribute='sku') | list", ["b"]),
        ("body.items | map(attribute='sku') | join('-')", "a-b"),
        # missing
        ("body.nope is defined", False),
        ("body.nope.deep.deeper is defined", False),
        ("body.customer.name is defined", False),
        ("body.items[9] is undefined", True),
        ("body.nope.deep | default('d')", "d"),
        ("body.customer | default('d', true)", "d"),
        ("headers.nope | default(none)", None),
        ("amqp.nope is defined", False),
        ("soap.operation is defined", False),
        ("jmespath('a.b') | default(1)", 1),
        # text
        ("body.name ~ 1 ~ true ~ 1.50", "Ann1true1.50"),
        ("body.name.upper() ~ body.name | lower", "ANNann"),
        ("'a,b'.split(',')", ["a", "b"]),
        ("'7'.zfill(3)", "007"),
        ("body.x | tojson", '{"y":1,"with-dash":"d"}'),
        ("'{\"a\": 1.10}' | fromjson", {"a": Decimal("1.10")}),
        ("'é/ü' | urlencode", "%C3%A9%2F%C3%BC"),
        ("'abc' | base64 | unbase64", "abc"),
        ("{'a': body.amount, 'b': [1]}", {"a": Decimal("10000.50"), "b": [1]}),
        # JMESPath
        ("jmespath('items[?price > `0.5`].sku')", ["a"]),
        ("jmespath('sum(items[*].price)')", Decimal("1.20")),
        ("jmespath('max_by(items, &price).sku')", "a"),
        ("jmespath('sort_by(items, &price)[0].sku')", "b"),
        ("jmespath('type(amount)')", "number"),
        ("jmespath('to_number(`\"1.10\"`)')", Decimal("1.10")),
        ("jmespath('items[?price == `0.1`].sku')", ["b"]),
    ],
)
def test_what_expressions_mean(source: str, value: Any) -> None:
    found = evaluate(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("xpath('//o:a', o='urn:o')", "10.50"),
        ("xpath('//o:a', o='urn:o') | decimal > 10", True),
        ("xpath('//o:a/@id', o='urn:o')", "1"),
        ("xpath('//o:a[@id=$id]', o='urn:o', id='2')", "3"),
        ("xpath('//o:s[. = $s]', o='urn:o', s=\"it's\")", "it's"),
        ("xpath('//o:a[. = $s]', o='urn:o', s=\"x' or '1'='1\") is defined", False),
        ("xpath('count(//o:a)', o='urn:o')", 2),
        ("xpath('sum(//o:a)', o='urn:o')", Decimal("13.5")),
        ("xpath('boolean(//o:a)', o='urn:o')", True),
        ("xpath('//a') is defined", False),
        ("xpath('//a') | default('d')", "d"),
        ("xpath('number(//o:s)', o='urn:o') is defined", False),
        ("xpath_all('//o:a', o='urn:o')", ["10.50", "3"]),
        ("xpath_all('//a')", []),
        ("xpath(\"string(//o:a[. = '$x'])\", o='urn:o')", ""),
    ],
)
def test_xpath(source: str, value: Any) -> None:
    assert evaluate(source, XML) == value


SOAP = Envelope(
    body=Body(
        b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header>'
        b'<r:to xmlns:r="urn:r" id="1">orders;<!-- c -->europe</r:to><r:n xmlns:r="urn:r">7</r:n>'
        b'</s:Header><s:Body><to xmlns="urn:r">other</to><not-well-formed></s:Body>',
        "text/xml; charset=utf-8",
    )
)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("soap_header('r:to', r='urn:r')", "orders;europe"),
        ("soap_header('//r:to', r='urn:r')", "orders;europe"),
        ("soap_header('r:to/@id', r='urn:r')", "1"),
        ("soap_header('*[@id = $id]', id='1') == 'orders;europe'", True),
        ("soap_header('count(*)')", 2),
        ("soap_header('r:n', r='urn:r') | int > 5", True),
        ("soap_header('r:from', r='urn:r') is defined", False),
        ("soap_header('r:from', r='urn:r') | default('me')", "me"),
        ("soap_header('count(//*)')", 4),
    ],
)
def test_soap_header(source: str, value: Any) -> None:
    assert evaluate(source, SOAP) == value


def test_a_soap_header_is_parsed_once_and_the_body_never(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counted(raw: bytes, **options: Any) -> etree._Element:
        parsed.append(raw)
        return parse_soap_header(raw, **options)

    monkeypatch.setattr(queries, "parse_soap_header", counted)
    message = SOAP.replace(body=Body(SOAP.body.raw, SOAP.content_type))
    assert evaluate("soap_header('r:to', r='urn:r') == 'x'", message) is False
    assert evaluate("soap_header('r:n', r='urn:r')", message) == "7"
    assert len(parsed) == 1
    assert not message.body.is_parsed


@pytest.mark.parametrize(
    ("content_type", "raw", "error"),
    [
        ("application/json", b'{"a": 1}', RouteFailure),
        ("application/xml", b"<a/>", BadMessage),
        ("text/xml", b"<s:Envelope", BadMessage),
    ],
)
def test_a_soap_header_needs_an_envelope(
    content_type: str, raw: bytes, error: type[EsbError]
) -> None:
    with pytest.raises(error, match=r"soap_header\(\) reads|no SOAP envelope|not well-formed"):
        evaluate("soap_header('x')", Envelope(body=Body(raw, content_type)))


def test_elements_stand_on_their_own() -> None:
    found = evaluate("elements('//o:a', o='urn:o')", XML)
    assert [each.text for each in found] == ["10.50", "3"]
    # An absolute path on a part must not see its siblings, prefixes in values must stay known.
    assert found[1].xpath("count(//*)") == 1
    assert found[1].nsmap["xs"] == "urn:xs"
    with pytest.raises(RouteFailure, match="finds elements"):
        evaluate("elements('//o:a/@id', o='urn:o')", XML)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("body.nope", "body.nope is missing"),
        ("body.nope.deep", "body.nope is missing"),
        ("body.customer.name", "body.customer.name is missing: what should hold it is null"),
        ("body.name.first", "body.name.first is missing: what should hold it is text"),
        ("body.items[5]", "body.items[5] is missing: there are 2 items"),
        ("body.items.name", "what should hold it is a list"),
        ("body[0]", "an object has no items by number"),
        ("headers.nope", "the header 'nope' is missing"),
        ("body.nope == 1", "body.nope is missing"),
        ("body.nope != 1", "body.nope is missing"),
        ("not body.nope", "body.nope is missing"),
        ("body.nope and true", "body.nope is missing"),
        ("body.nope > 1", "body.nope is missing"),
        ("1 + body.nope", "body.nope is missing"),
        ("'a' ~ body.nope", "body.nope is missing"),
        ("body.nope | upper", "body.nope is missing"),
        ("body.nope | length", "body.nope is missing"),
        ("body.nope | int", "body.nope is missing"),
        ("body.nope | tojson", "body.nope is missing"),
        ("body.nope is number", "body.nope is missing"),
        ("body.nope in ['a']", "body.nope is missing"),
        ("body.nope in body", "body.nope is missing"),
        ("[body.nope]", "body.nope is missing"),
        ("{'a': body.nope}", "body.nope is missing"),
        ("body.nope.upper()", "body.nope is missing"),
        ("body.items[body.nope]", "body.nope is missing"),
        ("body.items | map(attribute='nope')", "nope is missing"),
        ("body.items | sum(attribute='nope')", "nope is missing"),
        ("'x' | default(body.nope)", "body.nope is missing"),
        ("jmespath('nope')", "jmespath('nope') found nothing"),
        ("body.name > 1", "cannot compare text and a number"),
        ("body.name + 1", "cannot add text and a number"),
        ("body.x > body.x", "cannot compare an object and an object"),
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("body.name | int", "'Ann' is no whole number"),
        ("'1.5' | int", "'1.5' is no whole number"),
        ("true | decimal", "a boolean is no number"),
        ("'nan' | decimal", "'nan' is no number"),
        ("body.customer ~ ''", "null has no text"),
        ("body.amount.upper()", "a number has no method upper"),
        ("body.x | items | first | upper", "["),
        ("body.items | items", "items and values of an object, not of a list"),
        ("xpath('//a')", "xpath() reads XML, and the body is an object"),
        ("{1: 2}", "keys of an object are texts"),
        ("'x' | unbase64", "base64"),
    ],
)
def test_what_fails_on_a_message_says_why(source: str, message: str) -> None:
    if message == "[":  # a list has a text: JSON
        assert evaluate(source).startswith(message)
        return
    with pytest.raises(RouteFailure) as e:
        evaluate(source)
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("body.a", "the body is XML, which xpath('...') reads"),
        ("body['a']", "the body is XML"),
        ("body[0]", "the body is XML"),
        ("body.a is defined", "the body is XML"),
        ("body.a | default(1)", "the body is XML"),
        ("body == 'x'", "cannot compare XML and text"),
        ("body and true", "XML is no condition"),
        ("not body", "XML is no condition"),
        ("'a' ~ body", "XML has no text"),
        ("body | length", "XML has no length"),
        ("xpath('//a')", "xpath('//a') found nothing"),
        ("xpath('//o:a', o='urn:o') > 5", "`| decimal`"),
        ("jmespath('a')", "reads plain data, and the body is XML"),
    ],
)
def test_xml_is_no_data(source: str, message: str) -> None:
    with pytest.raises(RouteFailure) as e:
        evaluate(source, XML)
    assert message in str(e.value)


def test_bytes_and_broken_bodies() -> None:
    pdf = Envelope(body=Body(b"%PDF", "application/pdf"))
    with pytest.raises(RouteFailure, match="the body is bytes"):
        evaluate("body.a", pdf)
    broken = Envelope(body=Body(b'{"a":', "application/json"))
    with pytest.raises(BadMessage, match="ends too early"):
        evaluate("body.a is defined", broken)
    empty = Envelope()
    with pytest.raises(RouteFailure, match="what should hold it is null"):
        evaluate("body.a", empty)


def test_a_body_that_no_expression_reads_is_never_parsed() -> None:
    envelope = JSON.replace(body=Body(b"{ no JSON", "application/json"))
    assert evaluate("path.id ~ headers['x-a'] ~ message.id", envelope) == "71m1"
    assert evaluate("path.id == '7' or body.a", envelope) is True
    assert not envelope.body.is_parsed


# --- found at load -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "offset", "message", "hint"),
    [
        ("crm", 0, "nothing called crm", "'crm'"),
        ("bdy.x == 1", 0, "nothing called bdy", "body"),
        ("body.a == crm", 10, "nothing called crm", "'crm'"),
        ("null", 0, "nothing called null", "none"),
        ("headers.x-a", 0, "read as a subtraction", "headers['x-a']"),
        ("headers.X-Request-Id == '1'", 0, "read as a subtraction", "headers['X-Request-Id']"),
        ("headers.x-path", 0, "read as a subtraction", "headers['x-path']"),
        ("body.x.with-dash", 0, "read as a subtraction", "body.x['with-dash']"),
        ("message.idd", 7, "message has no idd", "message.id"),
        ("message", 0, "message is no value", "message.id"),
        ("now", 0, "now is a function", "now(...)"),
        ("body.a = 1", 7, "= is no comparison", "=="),
        ("body.a === 1", 9, "= is no comparison", "=="),
        ("body.a && body.b", 7, "& is no operator", "and"),
        ("body.a || body.b", 8, "|| is no operator", "or"),
        ("!body.a", 0, "! is no operator", "not"),
        ("body.a ? 1 : 2", 7, "? is no operator", "if"),
        ("1 <> 2", 3, "not understood", "!="),
        ("'abc", 0, "a quote is not closed", ""),
        ("body.a ==", 9, "ends too early", ""),
        ("(body.a", 7, "ends too early", ""),
        ("body.a body.b", 7, "unexpected 'body'", ""),
        ("{{ body.a }}", 0, "without {{ }}", ""),
        ("", 0, "empty", ""),
        ("body | lenght", 7, "no filter called lenght", "length"),
        ("body | float", 7, "no filter called float", "decimal"),
        ("body.a | attr('b')", 9, "no filter called attr", ""),
        ("body is nonne", 5, "no test called nonne", "none"),
        ("body.a | round(1, 2, 3, 4)", 9, "used wrongly", ""),
        ("body.a | default(x=1)", 9, "used wrongly", ""),
        ("body.a | map('lenght')", 13, "no filter called lenght", "length"),
        ("body.a | select('evn')", 16, "no test called evn", "even"),
        ("len(body)", 0, "no function called len", "| length"),
        ("upper(body.a)", 0, "no function called upper", "| upper"),
        ("xpaht('//a')", 0, "no function called xpaht", "xpath()"),
        ("body.items()", 4, "no method called items", "| items"),
        ("body.get('a')", 4, "no method called get", "default"),
        ("body.a.uper()", 6, "no method called uper", "upper()"),
        ("body.a.format(1)", 6, "no method called format", "~"),
        ("path.id == 7", 4, "path.id is text", "path.id | int"),
        ("7 < query.n", 9, "query.n is text", "'7'"),
        ("1 if body.a", 0, "without `else`", "else"),
        ("xpath(body.a)", 5, "takes one text in quotes", "variables"),
        ("xpath('//a[')", 6, "not an XPath expression", ""),
        ("xpath('//z:a')", 6, "undefined namespace prefix", "urn:"),
        ("xpath('//a[.=$v]')", 6, "$v has no value", ""),
        ("xpath('//a', v=body.x)", 6, "no variable $v", ""),
        ("xpath('nope()')", 6, "unregistered function", ""),
        ("xpath('re:test(., \"(a+)+$\")')", 6, "undefined namespace prefix", ""),
        ("xpath('document(\"/etc/passwd\")')", 6, "unregistered function", ""),
        ("jmespath('a[')", 9, "not a JMESPath expression", ""),
        ("now(1)", 3, "takes nothing", ""),
        ("body.a(1)(2)", 9, "only functions and methods", ""),
        ("(" * 5000 + "1" + ")" * 5000, 0, "nested too deep", ""),
        ("1" + "+1" * 20_000, 0, "at most", ""),
    ],
)
def test_mistakes_are_found_at_load(source: str, offset: int, message: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as e:
        compile_expression(source)
    assert message in e.value.message
    assert hint in e.value.hint
    assert e.value.offset == offset


def test_the_groups_that_can_be_named_are_given() -> None:
    assert compile_expression("ftp.file", names=("ftp",))(
        Envelope(params={"ftp": {"file": "a"}})
    ) == ("a")
    with pytest.raises(ExpressionError, match="nothing called path"):
        compile_expression("path.id", names=("ftp",))


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a\r\nb }} {x}", "a\r\nb }} {x}"),
        ("https://x/{{ path.id }}?n={{ query.n }}", "https://x/7?n=5"),
        ("{{ body.amount }}", "10000.50"),
        ("{{ body.vip }} {{ body.x }}", 'true {"y":1,"with-dash":"d"}'),
        ("{{ 'a}}' }}{# no #}\n", "a}}\n"),
        ("{{ body.nope | default('d') }}", "d"),
        ("{{ body.customer | default('', true) }}", ""),
        ("a {{- path.id -}} b", "a7b"),
        ("{{ message.time is string }}", "false"),
    ],
)
def test_text(source: str, text: str) -> None:
    assert compile_text(source)(JSON) == text


def test_values_in_text_can_be_escaped_and_its_own_text_not() -> None:
    from urllib.parse import quote

    envelope = Envelope(params={"path": {"id": "../admin?x"}})
    text = compile_text("https://x/{{ path.id }}", escape=lambda value: quote(value, safe=""))
    assert text(envelope) == "https://x/..%2Fadmin%3Fx"


@pytest.mark.parametrize(
    ("source", "offset", "message"),
    [
        ("x {{ body.a", 2, "{{ is not closed"),
        ("x {{ }}", 5, "an expression is missing"),
        ("x {% if a %}b{% endif %}", 5, "no {% %}"),
        ("ok {{ crm }}", 6, "nothing called crm"),
        ("{{ path.id }}/{{ bdy.x }}", 17, "nothing called bdy"),
    ],
)
def test_mistakes_in_text_are_found_at_load(source: str, offset: int, message: str) -> None:
    with pytest.raises(ExpressionError) as e:
        compile_text(source)
    assert message in e.value.message
    assert e.value.offset == offset


@pytest.mark.parametrize(
    ("source", "message"),
    [("{{ body.nope }}", "missing"), ("{{ body.customer }}", "null"), ("{{ 1/0 }}", "zero")],
)
def test_text_fails_like_expressions(source: str, message: str) -> None:
    with pytest.raises(RouteFailure, match=message):
        compile_text(source)(JSON)


def test_a_time_is_written_as_iso_8601() -> None:
    moment = datetime.fromisoformat("2025-01-02T03:04:05+00:00")
    assert compile_text("{{ message.time }}")(Envelope(time=moment)) == "2025-01-02T03:04:05Z"


# --- what cannot be done -------------------------------------------------------------------------

ESCAPES = [
    "''.__class__.__mro__[1].__subclasses__()",
    "headers.__class__.__init__.__globals__",
    "headers._pairs",
    "message.time.__class__",
    "(1).__class__",
    "[].__class__.__base__",
    "body['__class__'].__init__.__globals__",
    "now.__globals__",
    "xpath.__globals__",
    "self.__init__.__globals__",
    "lipsum.__globals__['os'].popen('id').read()",
    "cycler.__init__.__globals__.os",
    "request | attr('application')",
    "'{0.__class__.__init__}'.format(headers)",
    "'%s' | format(headers)",
    "''.join.__self__",
    "[headers] | map(attribute='_pairs') | list",
    "[headers] | map('attr', '_pairs') | list",
    "message._body",
    "message.body",
    "now().__reduce__()",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out_of_the_sandbox(source: str) -> None:
    with pytest.raises((ExpressionError, RouteFailure)):
        evaluate(source)


BOMBS = [
    "'a' * 200000000",
    "'a' * body.amount",
    "[1] * 1000000000",
    "10 ** 1000000",
    "10.5 ** 100000",
    "2 ** 16000 * 2 ** 16000",
    "'%1000000000d' % 1",
    "'x'.ljust(1000000000)",
    "'x'.zfill(1000000000)",
    "'x' | indent(1000000000)",
    "('x' * 1000000) | replace('x', 'y' * 1000)",
    "('x' * 1000000).replace('', 'yyyyyyyyyyyy')",
    "(['x'] * 100000) | join('x' * 1000)",
    "('x' * 1000).join(['y'] * 100000)",
    "1 | round(1000000000)",
    "[1] | batch(1000000000, 'x')",
    "range(10000000)",
    "now().strftime('%d' * 10000)",
    "1e6144 | int | string",
]


@pytest.mark.parametrize("source", BOMBS)
def test_no_small_expression_makes_a_big_value(source: str) -> None:
    started = time.perf_counter()
    with pytest.raises((ExpressionError, RouteFailure)):
        evaluate(source)
    assert time.perf_counter() - started < 2


TOKENS = [*"abx.[](){}|~+-*/%<>=!'\", 019", "body", "headers.", " and ", " if ", " is ", "xpath('"]


@given(st.lists(st.sampled_from(TOKENS), max_size=30).map("".join) | st.text(max_size=60))
def test_any_text_is_an_expression_or_an_expression_error(source: str) -> None:
    wrong = None
    try:
        compiled = compile_expression(source)
    except ExpressionError as e:
        wrong = e.offset
    if wrong is not None:
        assert 0 <= wrong <= len(source)
    else:
        with contextlib.suppress(EsbError):
            compiled(JSON)


@given(st.text(max_size=60))
def test_any_text_is_text_or_an_expression_error(source: str) -> None:
    try:
        text = compile_text(source)
    except ExpressionError:
        return
    if "{{" not in source and "{#" not in source:
        assert text(JSON) == source


def test_elements_are_lxml() -> None:
    assert all(isinstance(e, etree._Element) for e in evaluate("elements('//*')", XML))


# --- what is known when routes are loaded --------------------------------------------------------

KNOWN = {"env": {"REGION": "eu"}, "route": {"name": "orders"}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("env.REGION", "eu"),
        ("env['REGION'] ~ route.name", "euorders"),
        ("env.ZONE | default('a')", "a"),
        ("env.ZONE is defined", False),
        ("env.REGION is defined", True),
        ("body.nothing | default(env.REGION)", "eu"),
    ],
)
def test_constants_of_the_environment_and_the_route(source: str, value: Any) -> None:
    assert compile_expression(source, known=KNOWN)(JSON) == value
    assert compile_text(f"<{{{{ {source} }}}}>", known=KNOWN)(JSON).lower() == f"<{value}>".lower()


@pytest.mark.parametrize(
    ("source", "offset", "message", "hint"),
    [
        ("body.a == env.ZONE", 13, "the environment variable ZONE is not set", "default('...')"),
        ("body.a | default(env.ZONE)", 20, "ZONE is not set", "set it"),
        ("env", 0, "env is no value", "write env.NAME"),
        ("env[body.a]", 0, "env is no value", "write env.NAME"),
        ("route", 0, "route is no value", "write route.name"),
        ("route.nme", 5, "route has no nme", "it has name"),
        ("evn.REGION", 0, "nothing called evn", "did you mean env?"),
    ],
)
def test_constants_that_are_not_there(source: str, offset: int, message: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as found:
        compile_expression(source, known=KNOWN)
    assert message in found.value.message
    assert hint in found.value.hint
    assert found.value.offset == offset


def test_what_is_missing_can_be_told_from_what_fails() -> None:
    for source in ("body.nothing", "body.nothing.deep", "body.nothing | upper", "query.x ~ 'a'"):
        with pytest.raises(Missing):
            evaluate(source)
    for source in ("body.amount / 0", "body.name * body.name"):
        with pytest.raises(RouteFailure) as found:
            evaluate(source)
        assert not isinstance(found.value, Missing)
