"""XPath and JMESPath, compiled at load and exact."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import jmespath
from jmespath import exceptions, functions
from lxml import etree

from esb.codecs.json import dumps, loads
from esb.codecs.xml import XmlCodec
from esb.envelope import Body, codec_for, parse_content_type
from esb.errors import BadMessage, RouteFailure
from esb.expressions.language import kind, missing
from esb.xml import parse_soap_header

Query = Callable[..., Any]
"""Called with a body and the query's variables."""


# --- XPath 1.0 -----------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$([A-Za-z_][\w.-]*)")
_LITERAL = re.compile(r"\"[^\"]*\"|'[^']*'")


def xpath_variables(source: str) -> set[str]:
    """The names of the variables (`$name`) of an XPath."""
    return set(_VARIABLE.findall(_LITERAL.sub("''", source)))


def xpath_namespaces(source: str, keywords: Mapping[str, Any]) -> dict[str, str]:
    """What of the keywords of `xpath('//o:a[@id=$id]', o='urn:orders', id=body.id)` are prefixes.

    Those that are no variable. Raises ValueError for a variable without a value, and for a prefix
    whose namespace is not written out.
    """
    variables = xpath_variables(source)
    namespaces = {name: value for name, value in keywords.items() if name not in variables}
    for name, value in namespaces.items():
        if not isinstance(value, str):
            raise ValueError(f"the XPath has no variable ${name}")
    if variables - keywords.keys():
        raise ValueError(f"the variable ${min(variables - keywords.keys())} has no value")
    return namespaces


def compile_xpath(source: str, what: str, namespaces: Mapping[str, str]) -> Query:
    """Compile an XPath 1.0 expression.

    `what` is one of xpath (the first match as text, or the number or boolean that it computes),
    xpath_all (every match as text), elements (every match as an element on its own), and
    soap_header (as xpath, but of the Header of a SOAP envelope, and nothing behind that is parsed).
    Variables are values, never part of the expression. Raises ValueError if it is not XPath.
    """
    variables = xpath_variables(source)
    try:
        # regexp: EXSLT's regular expressions take exponential time on hostile text.
        compiled = etree.XPath(
            source, namespaces=dict(namespaces) or None, regexp=False, smart_strings=False
        )
        # Prefixes, functions and variables are only looked up when it runs.
        compiled(etree.Element("none"), **dict.fromkeys(variables, ""))
    except etree.XPathSyntaxError as e:
        raise ValueError(f"not an XPath expression: {str(e).lower()}") from e
    except etree.XPathEvalError as e:
        if str(e).startswith(("Undefined", "Unregistered", "Invalid number")):
            raise ValueError(f"not an XPath expression that can run: {str(e).lower()}") from e

    def root_of(body: Body) -> etree._Element:
        root = body.data
        if not isinstance(root, etree._Element):
            raise RouteFailure(f"{what}() reads XML, and the body is {kind(root)}")
        return root

    def header_of(body: Body) -> etree._Element:
        header: etree._Element = body.part(_soap_header)
        return header

    def run(body: Body, **values: Any) -> Any:
        at = start(body)
        try:
            found = compiled(at, **{k: _xpath_value(v) for k, v in values.items()})
        except etree.XPathError as e:
            raise RouteFailure(f"{what}() failed: {str(e).lower()}") from e
        return convert(found)

    def first(found: Any) -> Any:
        if isinstance(found, list):
            return _string(found[0]) if found else missing(f"{what}('{source}') found nothing")
        return _computed(found)

    def every(found: Any) -> list[Any]:
        return [_string(f) for f in found] if isinstance(found, list) else [_computed(found)]

    def detached(found: Any) -> list[Any]:
        if not isinstance(found, list) or not all(isinstance(f, etree._Element) for f in found):
            raise RouteFailure("elements() needs an XPath that finds elements")
        # Written and read, each is a document of its own that keeps the prefixes its values use.
        return [
            etree.fromstring(etree.tostring(f, with_tail=False, encoding="UTF-8")) for f in found
        ]

    start = header_of if what == "soap_header" else root_of
    convert: Query = {"xpath_all": every, "elements": detached}.get(what, first)
    return run


def _soap_header(body: Body) -> etree._Element:
    if not isinstance(codec_for(body.content_type), XmlCodec):
        raise RouteFailure(
            f"soap_header() reads a SOAP envelope, and the body is {body.content_type}"
        )
    charset = parse_content_type(body.content_type).params.get("charset")
    return parse_soap_header(body.raw, charset=charset)


def _xpath_value(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _string(node: Any) -> str:
    if isinstance(node, etree._Element):
        return (node.text or "") if not len(node) else "".join(map(str, node.itertext()))
    return str(node[1]) if isinstance(node, tuple) else str(node)


def _computed(value: Any) -> Any:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return missing("an XPath computes something that is no number")
        return int(value) if value.is_integer() else Decimal(repr(value))
    return value


# --- JMESPath ------------------------------------------------------------------------------------


class _Functions(functions.Functions):
    """JMESPath's functions, where a Decimal is a number and none becomes a float."""

    def _get_allowed_pytypes(self, types: Any) -> Any:
        allowed, inner = super()._get_allowed_pytypes(types)  # type: ignore[misc]
        return (
            [*allowed, "Decimal"] if "float" in allowed else allowed,
            [(*each, "Decimal") if "float" in each else each for each in inner],
        )

    def _convert_to_jmespath_type(self, name: str) -> Any:
        if name == "Decimal":
            return "number"
        return super()._convert_to_jmespath_type(name)  # type: ignore[misc]

    @functions.signature({"types": []})
    def _func_type(self, value: Any) -> Any:
        if isinstance(value, Decimal):
            return "number"
        return super()._func_type(value)  # type: ignore[misc]

    @functions.signature({"types": []})
    def _func_to_string(self, value: Any) -> str:
        return value if isinstance(value, str) else dumps(value).decode()

    @functions.signature({"types": []})
    def _func_to_number(self, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = loads(value.encode())
            except (BadMessage, UnicodeEncodeError):
                return None
        is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        return value if is_number else None

    @functions.signature({"types": ["array-number"]})
    def _func_avg(self, values: Any) -> Any:
        return Decimal(sum(values)) / len(values) if values else None


_OPTIONS = jmespath.Options(custom_functions=_Functions())


def compile_jmespath(source: str) -> Query:
    """Compile a JMESPath expression. Raises ValueError if it is none.

    What it does not find is missing, like a field that is not there.
    """
    try:
        compiled = jmespath.compile(source)
    except exceptions.JMESPathError as e:
        raise ValueError(f"not a JMESPath expression: {str(e).splitlines()[0]}") from e
    _make_exact(compiled.parsed)

    def run(body: Body) -> Any:
        data = body.data
        if isinstance(data, etree._Element | bytes):
            raise RouteFailure(f"jmespath() reads plain data, and the body is {kind(data)}")
        try:
            found = compiled.search(data, options=_OPTIONS)
        except exceptions.JMESPathError as e:
            raise RouteFailure(f"jmespath() failed: {str(e)[:200]}") from e
        return missing(f"jmespath('{source}') found nothing") if found is None else found

    return run


def _make_exact(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "literal" and isinstance(node["value"], float):
            node["value"] = Decimal(repr(node["value"]))
        for child in node.get("children", ()):
            _make_exact(child)
