"""Ways out of the sandboxes of Jinja2 and Python that are publicly known, in the bus's own
expressions, texts and templates: none leads to an object of Python, a file or a line of code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadMessage, RouteFailure
from esb.expressions import ExpressionError, compile_expression, compile_text
from esb.expressions.sandbox import FILTERS, MAX_CHARACTERS
from esb.templates import TemplateError, compile_jinja

MESSAGE: Final = Envelope(
    body=Body(b'{"name": "a", "a": [1], "__class__": "data"}', "application/json"),
    headers=Headers([("X-A", "1")]),
)
WAYS_OUT: Final = [
    '\'\'["__cl"~"ass__"]', "body|attr('__cl'~'ass__')", "(body|attr)('__class__')",
    "''['\\x5f\\x5fclass\\x5f\\x5f']", "''.__getattribute__('__class__')", "body.__getitem__",
    "().__class__.__bases__[0].__subclasses__()", "[].append.__self__", "{}.get.__self__",
    "[].sort.__func__", "''.format.__self__", "'{0.__class__}'.format_map({'0': 1})",
    "'{x[__class__]}'.format(x=body)", "'%(x)s' % {'x': headers}", "'%s' % (headers,)",
    "headers|string", "headers|list", "headers|pprint", "message|string", "message|tojson",
    "message|list", "message|items|list", "now|string", "xpath|string", "range|string",
    "dict|string", "self|string", "true.__class__", "none.__class__", "1.0.real", "(1).numerator",
    "body.keys.__self__", "body.items", "body.name.upper.__self__", "[1]|map('string')|list",
    "[headers]|selectattr('_pairs')|list", "[headers]|groupby('_pairs')",
    "[headers]|sort(attribute='_pairs')", "[headers]|sum(attribute='_pairs')",
    "[headers]|unique(attribute='_index')|list", "[headers]|min(attribute='_pairs')",
    "[headers]|rejectattr('__class__')|list", "[body]|map(attribute='__class__.__mro__')|list",
    "['__class__']|map('attr')|list", "headers|map('upper')|list", "[1]|map('attr','real')|list",
    "body|dictsort", "body is mapping", "body is callable", "now is callable", "range is callable",
    "range(5)|attr('start')", "cycler('a').next", "joiner.__init__", "dict(a=1).update",
    "namespace(a=1)", "lipsum(1)", "config", "request", "g", "url_for.__globals__",
    "get_flashed_messages", "session", "self._TemplateReference__context", "self.__dict__",
    "super", "loop", "caller", "varargs", "kwargs", "undefined_thing.__class__",
    "undefined_thing|default(headers)|string", "body.\uff43\uff4c\uff41\uff53\uff53",
    "body._\ufe33class", "\uff4eow.__globals__", 'xpath(\'document("/etc/passwd")\')',
    "xpath(body.name)", "xpath('//*[' ~ body.name ~ ']')", "jmespath(body.name)",
    'xpath(\'re:test("a","a")\', re=\'http://exslt.org/regular-expressions\')', "elements('//*')",
    "matches('a', body.name)", "body.name|regex_replace('(a+)+$','')", "uuid.__self__", "env.PATH",
    "environ", "os.environ", "open('/etc/passwd')", "__import__('os')", "eval('1')", "exec('1')",
    "getattr(body,'x')", "type(body)", "vars()", "globals()", "locals()", "dir()", "id(body)",
    "hash(body)", "print(1)", "input()", "compile('1','','eval')", "lambda: 1",
    "[x for x in body]", "body if (y:=1) else 2", "f'{body}'", "b'a'", "`id`", "body;1", "body\n1",
    "yield 1", "await x", "*body", "**body", "a.b.c := 1", "import os", "'a'.encode('rot13')",
    "'a'.translate({97:'b'})", "'a'.maketrans('a','b')", "1|filesizeformat", "'a'|xmlattr",
    "{'a b':1}|xmlattr", "'http://x'|urlize", "[[1]]|first|first",
    "'a'|escape|forceescape|safe|attr('unescape')", "('a'|escape).__html__", "('a'|escape).format",
    "('<a>'|safe).striptags", "'a'|random", "[1,2]|random", "'a'|wordcount",
]  # fmt: skip
HARMLESS: Final = frozenset({
    "body is mapping", "body|dictsort", "[[1]]|first|first", "[1]|map('string')|list",
    "headers|list", "headers|map('upper')|list", "message|string", "message|tojson",
    "message|list", "message|items|list", "[headers]|groupby('_pairs')",
    "[headers]|sort(attribute='_pairs')", "[headers]|min(attribute='_pairs')",
    "namespace(a=1)",
})  # fmt: skip
"""These run, since they reach nothing but what the message says."""

LANGUAGES: Final[dict[str, Callable[[str], Any]]] = {
    "expressions": lambda source: compile_expression(source)(MESSAGE),
    "texts": lambda source: compile_text(f"{{{{ {source} }}}}")(MESSAGE),
    "templates": lambda source: compile_jinja(f"{{{{ {source} }}}}\n", "text/plain", folders=[])(
        MESSAGE
    ).raw.decode(),
    "conditions": lambda source: compile_jinja(
        f"{{% if {source} %}}yes{{% endif %}}\n", "text/plain", folders=[]
    )(MESSAGE).raw.decode(),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_way_leads_out(language: str) -> None:
    assert len(WAYS_OUT) >= 100
    for source in WAYS_OUT:
        try:
            made = LANGUAGES[language](source)
        except (ExpressionError, TemplateError, RouteFailure):
            continue
        assert source in HARMLESS, (source, made)
        for inside in ("<class", "object at", "built-in", "<function", "<module", "root:x:0"):
            assert inside not in str(made), source


@pytest.mark.parametrize("query", ["xpath", "xpath_all", "elements", "soap_header", "jmespath"])
def test_no_message_brings_a_query(query: str) -> None:
    for source in ("body.name", "'//*[' ~ body.name ~ ']'", "headers['x-a']", "body.a | first"):
        with pytest.raises(ExpressionError):
            compile_expression(f"{query}({source})")


INJECTED: Final = ["' or '1'='1", '" or "1"="1', "'] | //* | a['", "1 or 1=1", "$x", "&#39;", "*"]


@pytest.mark.parametrize("value", INJECTED)
def test_a_value_is_no_part_of_an_xpath(value: str) -> None:
    root = b"<r><a id='1'>secret</a><a id='2'>secret</a></r>"
    found = compile_expression("xpath_all('//a[@id=$id]', id=headers['x-id'])")(
        Envelope(body=Body(root, "application/xml"), headers=Headers([("x-id", value)]))
    )
    assert found == []


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_a_long_text_is_no_list(name: str) -> None:
    """Whatever a route expects, a sender may send a text; no filter takes its characters one by
    one for seconds."""
    of_items = {"batch", "groupby", "join", "list", "map", "max", "min", "reject", "rejectattr",
                "select", "selectattr", "sort", "sum", "unique"}  # fmt: skip
    given = {"batch": "batch(2)", "groupby": "groupby('a')", "map": "map('upper')"}.get(name, name)
    body = Body.of({"x": "a" * (MAX_CHARACTERS + 1)})
    try:
        run = compile_expression(f"body.x | {given}")
    except ExpressionError:
        assert name not in of_items
        return
    if name in of_items:
        with pytest.raises(RouteFailure, match="of that length is no list"):
            run(Envelope(body=body))
    else:
        try:
            run(Envelope(body=body))
        except (RouteFailure, BadMessage):
            return
