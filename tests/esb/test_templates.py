"""Jinja2 and XSLT templates: what they write, what is found at load, what they cannot do."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.templates import TemplateError, compile_jinja, compile_xslt

ORDER = b"""{"amount": 10000.50, "name": "A\\"n<&", "customer": null, "vip": true,
  "items": [{"sku": "a<b", "price": 1.10}, {"sku": "b", "price": 0.10}], "x": {"y": 1}}"""
JSON = Envelope(
    body=Body(ORDER, "application/json"),
    headers=Headers([("X-A", "1")]),
    params={"path": {"id": "7"}},
)
XML = Envelope(
    body=Body(b'<o xmlns="urn:o"><a id="1">10.50</a><a id="2">3</a></o>', "application/xml")
)


def render(template: str | Path, content_type: str = "text/plain", message: Envelope = JSON) -> str:
    folders = [template.parent] if isinstance(template, Path) else []
    return compile_jinja(template, content_type, folders=folders)(message).raw.decode()


# --- Jinja2: what is written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for i in body.items %}{{ loop.index }}:{{ i.sku }};{% endfor %}", "1:a<b;2:b;"),
        ("{% for k, v in body.x | items %}{{ k }}={{ v }}{% endfor %}", "y=1"),
        ("{% if body.amount > 10000.4 %}big{% endif %}", "big"),
        ("{{ body.items[1].price == 0.1 }}", "true"),
        ("{{ body.items[0].price * 3 }}", "3.30"),
        ("{{ 1 / 4 }}", "0.25"),
        ("{{ headers['x-a'] }}{{ path.id }}{{ message.attempt }}", "171"),
        ("{{ body.nope.deep | default('d') }}", "d"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ m(body.name) }}", '[1][A"n<&]'),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}"
         "{% endfor %}{{ ns.n }}", "3"),
        ("{% block a %}b{% endblock %}{{ self.a() }}", "bb"),
        ("{% filter upper %}a{% endfilter %}", "A"),
        ("{{ body.items | map(attribute='sku') | join(',') }}", "a<b,b"),
        ("{{ jmespath('items[?price > `1`].sku')[0] }}", "a<b"),
        ("{{ now().year > 2000 }}{{ uuid() | length }}", "true36"),
        ("{{ body.name.upper() }}", 'A"N<&'),
        ("{% for i in [1, 2] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "ab"),
        ("{% raw %}{{ x }}{% endraw %}\n", "{{ x }}\n"),
    ],
)  # fmt: skip
def test_text(template: str, text: str) -> None:
    assert render(template) == text


def test_a_body_that_no_template_names_is_never_parsed() -> None:
    message = JSON.replace(body=Body(b"{ no JSON", "application/json"))
    assert render("{{ path.id }}", message=message) == "7"
    assert not message.body.is_parsed
    with pytest.raises(BadMessage):
        render("{{ body.x }}", message=message)


def test_xml_is_escaped_parsed_and_in_its_charset() -> None:
    body = compile_jinja(
        "\n{% set x = 1 %}\n<?xml version='1.0' encoding='iso-8859-1'?>"
        '<a n="{{ body.name }}">{{ body.items[0].sku }} é€</a>',
        "application/xml",
        folders=[],
    )(JSON)
    assert body.is_parsed
    assert body.raw.endswith(b'<a n="A&#34;n&lt;&amp;">a&lt;b \xe9&#8364;</a>')
    assert body.data.get("n") == 'A"n<&'
    assert render("<a>{{ xpath('//o:a', o='urn:o') }}</a>", "text/xml", XML) == "<a>10.50</a>"


def test_what_is_escaped_already_stays_so() -> None:
    macro = "{% macro m(x) %}<b>{{ x }}</b>{% endmacro %}"
    for call in ("m(1) ~ m('<') ~ '>'", "[m(1), m('<'), '>'] | join", "m(1) ~ (m('<') ~ '>')"):
        assert render(f"{macro}<a>{{{{ {call} }}}}</a>", "text/xml") == (
            "<a><b>1</b><b>&lt;</b>&gt;</a>"
        )
    assert render("<a>{{ '<b/>' | safe }}</a>", "text/xml") == "<a><b/></a>"
    assert render("<p>{{ body.name }}</p>", "text/html; charset=utf-8") == "<p>A&#34;n&lt;&amp;</p>"


def test_json_is_exact_escaped_and_parsed() -> None:
    body = compile_jinja(
        '{"n": "<{{ body.name }}>", "a": {{ body.amount }}, "t": {{ body.name | tojson }},'
        ' "i": {{ body.items }}, "c": {{ body.customer }}, "v": {{ body.vip }},'
        ' "s": {{ (body.items | sum(attribute="price")) | tojson }}}',
        "application/problem+json",
        folders=[],
    )(JSON)
    assert body.data == {
        "n": '<A"n<&>',
        "a": Decimal("10000.50"),
        "t": 'A"n<&',
        "i": [{"sku": "a<b", "price": Decimal("1.10")}, {"sku": "b", "price": Decimal("0.10")}],
        "c": None,
        "v": True,
        "s": Decimal("1.20"),
    }
    assert b'"a": 10000.50' in body.raw


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_breaks_out_of_its_quotes(value: str) -> None:
    message = Envelope(body=Body.of({"v": value}))
    assert json.loads(render('{"a": "x{{ body.v }}"}', "application/json", message)) == {
        "a": "x" + value
    }
    assert json.loads(render('{"a": {{ body.v | tojson }}}', "application/json", message)) == {
        "a": value
    }
    try:
        raw = render("<a b='{{ body.v }}'>{{ body.v }}</a>", "application/xml", message)
    except RouteFailure as e:  # characters that XML has no form for
        assert "not well-formed" in str(e)  # noqa: PT017 - both outcomes are right
        return
    root = etree.fromstring(raw.encode())
    assert len(root) == 0
    assert list(root.keys()) == ["b"]


@pytest.mark.parametrize(
    ("template", "content_type", "message"),
    [
        ("{{ body.nope }}", "text/plain", "body.nope is missing"),
        ("{{ body.customer.name }}", "text/plain", "body.customer.name is missing"),
        ("{{ body.customer }}", "text/plain", "null has no text"),
        ("{% for i in body.nope %}{% endfor %}", "text/plain", "body.nope is missing"),
        ("{% for i in body.name %}{% endfor %}", "text/plain", "a loop needs a list"),
        ("{% if body.nope %}{% endif %}", "text/plain", "body.nope is missing"),
        ("{{ body.items | map(attribute='nope') | list }}", "text/plain", "nope is missing"),
        ("{{ body.nope() }}", "text/plain", "body.nope is missing"),
        ("{{ body.name() }}", "text/plain", "text cannot be called"),
        ('{"a": {{ body.name }}}', "application/json", "not valid JSON"),
        ('{"a": 1, "a": 2}', "application/json", "twice"),
        ("<a>", "application/xml", "not well-formed XML"),
        ("<!DOCTYPE a><a/>", "application/xml", "DOCTYPE"),
        ("é", "text/plain; charset=us-ascii", "no form in us-ascii"),
        ("{{ 1 / 0 }}", "text/plain", "divides by zero"),
        ("{{ body.name + 1 }}", "text/plain", "cannot add text and a number"),
        ("{{ jmespath('nope') }}", "text/plain", "found nothing"),
    ],
)
def test_what_fails_on_a_message_says_why(template: str, content_type: str, message: str) -> None:
    with pytest.raises(RouteFailure) as e:
        render(template, content_type)
    assert message in str(e.value)


def test_xml_is_no_data_in_templates_either() -> None:
    with pytest.raises(RouteFailure, match="the body is XML, which xpath"):
        render("{{ body.a }}", message=XML)


def test_the_log_learns_the_line_and_the_caller_does_not(tmp_path: Path) -> None:
    file = tmp_path / "a.txt.j2"
    file.write_text("one\ntwo\n{{ body.nope }}\n")
    with pytest.raises(RouteFailure) as e:
        render(file)
    assert "a.txt.j2" not in str(e.value)
    assert e.value.__notes__ == [f"in {file}, line 3"]


# --- Jinja2: what is found at load ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "line", "message", "hint"),
    [
        ("a\n{{ crm }}", 2, "nothing called crm", "'crm'"),
        ("a\n{{ bdy.x }}", 2, "nothing called bdy", "body"),
        ("{{ headers.x-a }}", 1, "read as a subtraction", "headers['x-a']"),
        ("\n\n{{ message.idd }}", 3, "message has no idd", "message.id"),
        ("\n{{ body.name\n}", 3, "unexpected '}'", ""),
        ("{% if body %}\n", 1, "nexpected end of template", ""),
        ("\n{% nope %}", 2, "unknown tag 'nope'", ""),
        ("\n{{ body | lenght }}", 2, "no filter called lenght", "length"),
        ("{{ body | float }}", 1, "no filter called float", "decimal"),
        ("{{ body | pprint }}", 1, "no filter called pprint", ""),
        ("{{ body is nonne }}", 1, "no test called nonne", "none"),
        ("\n{{ body.items() }}", 2, "no method called items", "| items"),
        ("\n{{ xpath('//z:a') }}", 2, "undefined namespace prefix", ""),
        ("\n{{ xpath(body.x) }}", 2, "takes one text in quotes", "variables"),
        ("\n{{ jmespath('a[') }}", 2, "not a JMESPath expression", ""),
        ("\n{% include 'nope.txt' %}", 2, "no template nope.txt", "transforms/"),
        ("\n{% include body.name %}", 2, "named by a text in quotes", ""),
        ("{% include '/etc/passwd' %}", 1, "no template /etc/passwd", ""),
        ("{% include '../../../../etc/passwd' %}", 1, "no template", ""),
        ("{% import 'nope.txt' as x %}", 1, "no template nope.txt", ""),
        ("{% from 'nope.txt' import x %}", 1, "no template nope.txt", ""),
        ("{% extends 'nope.txt' %}", 1, "no template nope.txt", ""),
    ],
)
@pytest.mark.parametrize("inline", [True, False])
def test_mistakes_are_found_at_load(
    template: str, line: int, message: str, hint: str, inline: bool, tmp_path: Path
) -> None:
    file = tmp_path / "t.j2"
    file.write_text(template)
    with pytest.raises(TemplateError) as e:
        compile_jinja(template if inline else file, "text/plain", folders=[tmp_path])
    assert message in e.value.message
    assert hint in e.value.hint
    assert e.value.line == line
    assert e.value.file == ("" if inline else str(file))


def test_what_a_template_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "shared" / "head.txt").write_text("[{{ path.id }} {{ title }}]")
    (tmp_path / "shared" / "macros.txt").write_text("{% macro m(x) %}<{{ x }}>{% endmacro %}")
    (tmp_path / "own" / "base.txt").write_text("A{% block b %}B{% endblock %}")
    main = tmp_path / "own" / "main.txt"
    main.write_text(
        "{% extends 'base.txt' %}{% from 'macros.txt' import m %}{% block b %}{{ super() }}"
        "{% set title = 't' %}{% include 'head.txt' %}{{ m(body.x.y) }}"
        "{% include 'none.txt' ignore missing %}{% endblock %}"
    )
    compiled = compile_jinja(main, "text/plain", folders=[tmp_path / "shared"])
    assert compiled(JSON).raw == b"AB[7 t]<1>"
    assert {file.name for file in compiled.files} == {
        "main.txt",
        "base.txt",
        "head.txt",
        "macros.txt",
    }


def test_a_mistake_in_an_included_template_is_placed_there(tmp_path: Path) -> None:
    (tmp_path / "part.txt").write_text("a\n{{ body..x }}")
    with pytest.raises(TemplateError) as e:
        compile_jinja("{% include 'part.txt' %}", "text/plain", folders=[tmp_path])
    assert (e.value.file, e.value.line) == (str(tmp_path / "part.txt"), 2)


def test_a_link_out_of_the_folder_is_no_template(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.txt").write_text("SECRET")
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("link.txt", "../secret.txt", str(tmp_path / "secret.txt")):
        with pytest.raises(TemplateError, match="no template"):
            compile_jinja(f"{{% include '{name}' %}}", "text/plain", folders=[tmp_path / "in"])


# --- Jinja2: what cannot be done -----------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ request | attr('application') }}",
        "{{ '{0.__class__}'.format(headers) }}",
        "{{ ('%s' | format)(headers) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace() %}{{ ns.__class__ }}",
        "{{ range.__self__ }}",
        "{{ now.__globals__ }}",
        "{{ now().__class__ }}",
        "{{ headers._pairs }}",
        "{{ headers.replace({}) }}",
        "{{ headers.keep }}",
        "{{ xpath.func }}",
        "{{ xpath.args }}",
        "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
        "{{ body['__class__'].__mro__ }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ [headers] | map(attribute='_pairs') | list }}",
        "{{ [headers] | map('attr', '_pairs') | list }}",
        "{{ environment }}",
        "{{ context }}",
        "{% do headers %}",
        "{% debug %}",
        "{{ message.body }}",
        "{{ caller.__globals__ }}",
        "{% import 'os' as os %}{{ os.popen }}",
    ],
)
def test_no_way_out_of_the_sandbox(template: str) -> None:
    with pytest.raises((TemplateError, RouteFailure)):
        render(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 200000000 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}"
        "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}"
        "{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{{ " + "d(" * 30 + "'aaaa'" + ")" * 30 + " }}",
        "{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}",
        "{% macro r(n) %}{% for i in [1, 2] %}{{ r(n - 1) if n else '' }}{% endfor %}{% endmacro %}"
        "{{ r(60) }}",
        "{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 10 ** 1000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ range(100000) | join('x' * 1000) }}",
        "{{ range(10000000000) }}",
        "{{ [1] * 1000000000 }}",
    ],
)
def test_no_small_template_runs_long_or_writes_much(template: str) -> None:
    started = time.perf_counter()
    with pytest.raises((TemplateError, RouteFailure)):
        render(template)
    assert time.perf_counter() - started < 10
    assert render("{{ 1 }}") == "1"  # the next one has its own budget


@given(st.text(st.sampled_from("{}%#-|.'\"[]() abif=body\n"), max_size=40))
def test_any_text_is_a_template_or_a_template_error(source: str) -> None:
    try:
        compiled = compile_jinja(source, "text/plain", folders=[])
    except TemplateError:
        return
    try:
        compiled(JSON)
    except EsbError:
        return


# --- XSLT ----------------------------------------------------------------------------------------


def stylesheet(folder: Path, template: str, top: str = "", name: str = "a.xsl") -> Path:
    file = folder / name
    file.write_text(
        '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" '
        'xmlns:exsl="http://exslt.org/common" xmlns:re="http://exslt.org/regular-expressions" '
        f'extension-element-prefixes="exsl" exclude-result-prefixes="re">\n{top}\n'
        f'<xsl:template match="/">{template}</xsl:template>\n</xsl:stylesheet>'
    )
    return file


def transform(folder: Path, template: str, top: str = "", **options: Any) -> Body:
    file = stylesheet(folder, template, top)
    return compile_xslt(file, folder=folder, **options)(
        Envelope(body=Body("<a>é</a>".encode(), "text/xml"))
    )


@pytest.mark.parametrize(
    ("template", "top", "raw", "content_type"),
    [
        ("<o><xsl:value-of select='a'/></o>", "", "<o>é</o>", "application/xml"),
        ("<p><br/></p>", "<xsl:output method='html'/>", "<p><br></p>", "text/html"),
        (
            "<xsl:value-of select='a'/>",
            "<xsl:output method='text' encoding='iso-8859-1'/>",
            "é",
            "text/plain; charset=iso-8859-1",
        ),
        ("<o/>", "<xsl:output media-type='application/soap+xml'/>", "<o/>", "application/soap+xml"),
        ("<o/>", "<xsl:output omit-xml-declaration='yes'/>", "<o/>", "application/xml"),
        ("", "<xsl:output method='text'/>", "", "text/plain"),
    ],
)
def test_a_stylesheet_says_what_it_makes(
    template: str, top: str, raw: str, content_type: str, tmp_path: Path
) -> None:
    body = transform(tmp_path, template, top)
    assert body.content_type == content_type
    assert raw in body.text


def test_a_route_may_say_it_instead(tmp_path: Path) -> None:
    file = stylesheet(tmp_path, "a,b", "<xsl:output method='text'/>")
    assert compile_xslt(file, "text/csv", folder=tmp_path)(XML).content_type == "text/csv"


def test_parameters_are_text_and_never_xpath(tmp_path: Path) -> None:
    value = "it's \"x\" or '1'='1'"
    body = transform(
        tmp_path,
        "<o><xsl:value-of select='$p'/></o>",
        "<xsl:param name='p'/>",
        params={"p": lambda envelope: value},
    )
    assert body.data.text == value
    with pytest.raises(TemplateError, match="no parameter q"):
        compile_xslt(tmp_path / "a.xsl", folder=tmp_path, params={"q": lambda envelope: 1})


def test_imports_come_from_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    project, outside = tmp_path / "in", tmp_path / "secret.xsl"
    (project / "sub").mkdir(parents=True)
    stylesheet(tmp_path, "<stolen/>", name="secret.xsl")
    stylesheet(project / "sub", "", "<xsl:template name='x'>INC</xsl:template>", "inc.xsl")
    (project / "link.xsl").symlink_to(outside)
    good = "<xsl:import href='sub/inc.xsl'/>"
    assert b"INC" in transform(project, "<o><xsl:call-template name='x'/></o>", good).raw
    compiled = compile_xslt(project / "a.xsl", folder=project)
    assert {file.name for file in compiled.files} == {"a.xsl", "inc.xsl"}
    for href in ("../secret.xsl", str(outside), f"file://{outside}", "link.xsl", "nope.xsl",
                 "http://127.0.0.1:1/x.xsl", "ftp://127.0.0.1:1/x.xsl", "/etc/passwd"):  # fmt: skip
        for how in ("import", "include"):
            with pytest.raises(TemplateError) as e:
                transform(project, "<o/>", f"<xsl:{how} href='{href}'/>")
            assert e.value.line == 2
            assert "an import fails" in e.value.message


def test_a_running_stylesheet_reads_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.xml").write_text("<s>SECRET</s>")
    written = tmp_path / "out.xml"
    for template in (
        "<o><xsl:value-of select=\"document('secret.xml')\"/></o>",
        f"<o><xsl:value-of select=\"document('file://{tmp_path}/secret.xml')\"/></o>",
        "<o><xsl:value-of select=\"document('')\"/></o>",
        "<o><xsl:value-of select=\"document('http://127.0.0.1:1/x')\"/></o>",
        f'<exsl:document href="{written}"><x/></exsl:document>',
        f'<exsl:document href="file://{written}"><x/></exsl:document>',
    ):
        with pytest.raises(RouteFailure, match="denied") as e:
            transform(tmp_path, template)
        assert "SECRET" not in str(e.value)
        assert str(tmp_path) not in str(e.value)
    assert not written.exists()


def test_what_a_stylesheet_refuses_and_where_it_fails(tmp_path: Path) -> None:
    refuse = "<xsl:message terminate='yes'>no <xsl:value-of select='name(*)'/></xsl:message>"
    with pytest.raises(BadMessage, match="no a"):
        transform(tmp_path, refuse)
    assert b"<o/>" in transform(tmp_path, "<xsl:message>hello</xsl:message><o/>").raw
    loop = "<xsl:template name='r'><xsl:call-template name='r'/></xsl:template>"
    with pytest.raises(RouteFailure, match="without an end"):
        transform(tmp_path, "<xsl:call-template name='r'/>", loop)
    with pytest.raises(RouteFailure, match="a stylesheet failed"):
        transform(tmp_path, "<o><xsl:value-of select='nope()'/></o>")
    with pytest.raises(RouteFailure, match="a stylesheet failed"):
        transform(tmp_path, "<o><xsl:value-of select=\"re:test('a', '(a+)+$')\"/></o>")
    with pytest.raises(RouteFailure, match="made nothing"):
        transform(tmp_path, "")
    file = stylesheet(tmp_path, "<o/>")
    with pytest.raises(BadMessage, match="XML was expected"):
        compile_xslt(file, folder=tmp_path)(JSON)


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("<a/>", 1, "no stylesheet"),
        ("<xsl:stylesheet", 1, "not well-formed XML"),
        ("<!DOCTYPE a><a/>", 1, "DOCTYPE"),
        (
            '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">\n\n'
            '<xsl:template match="/"><xsl:value-of select="//["/></xsl:template></xsl:stylesheet>',
            3,
            "could not compile select expression '//['",
        ),
    ],
)
def test_mistakes_in_stylesheets_are_found_at_load(
    source: str, line: int, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.xsl"
    file.write_text(source)
    with pytest.raises(TemplateError) as e:
        compile_xslt(file, folder=tmp_path)
    assert message in e.value.message
    assert (e.value.file, e.value.line) == (str(file), line)


# --- what is known when routes are loaded --------------------------------------------------------

KNOWN = {"env": {"REGION": "eu", "TOKEN": "s3cret"}, "route": {"name": "orders"}}


def test_templates_name_constants_but_never_all_of_them() -> None:
    source = (
        "{{ env.REGION }}{{ route['name'] }}{{ env.ZONE | default('z') }}{{ env.X is defined }}"
    )
    compiled = compile_jinja(source, "text/plain", folders=[], known=KNOWN)
    assert compiled(JSON).raw == b"euorderszfalse"
    own = "{% for route in [1] %}{{ route }}{% endfor %}"
    assert compile_jinja(own, "text/plain", folders=[], known=KNOWN)(JSON).raw == b"1"
    for source, message in (
        ("{{ env.ZONE }}", "the environment variable ZONE is not set"),
        ("{{ route.nme }}", "route has no nme"),
        ("{{ env }}", "env is no value"),
        ("{% for name in env %}{{ name }}{% endfor %}", "env is no value"),
        ("{{ env[body.name] }}", "env is no value"),
        ("{{ evn.REGION }}", "there is nothing called evn"),
    ):
        with pytest.raises(TemplateError, match=message):
            compile_jinja(source, "text/plain", folders=[], known=KNOWN)


DYNAMIC = (
    '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"'
    ' xmlns:d="http://exslt.org/dynamic" xmlns:s="http://icl.com/saxon">{}'
    '<xsl:template match="/">\n<o><xsl:value-of select="{}"/></o></xsl:template></xsl:stylesheet>'
)


@pytest.mark.parametrize(
    "call", ["d:evaluate(/a)", "1 + d:map(/a, 'b')", "s:evaluate (/a)", "s:eval(s:expression(/a))"]
)
def test_no_stylesheet_makes_an_xpath_of_data(tmp_path: Path, call: str) -> None:
    (tmp_path / "a.xsl").write_text(DYNAMIC.format("", call))
    with pytest.raises(TemplateError, match="makes an XPath of data") as e:
        compile_xslt(tmp_path / "a.xsl", folder=tmp_path)
    assert e.value.line == 2
    (tmp_path / "b.xsl").write_text(DYNAMIC.format('<xsl:import href="a.xsl"/>', "1"))
    with pytest.raises(TemplateError, match="makes an XPath of data") as e:
        compile_xslt(tmp_path / "b.xsl", folder=tmp_path)
    assert e.value.file.endswith("a.xsl")


def test_asking_for_a_function_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.xsl").write_text(DYNAMIC.format("", "function-available('d:evaluate')"))
    made = compile_xslt(tmp_path / "a.xsl", folder=tmp_path)(XML)
    assert b"</o>" in made.raw
