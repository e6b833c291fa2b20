"""From the source of an expression to a function: Jinja2's parser, our own small compiler.

The syntax tree becomes nested closures over the envelope. That is faster than Jinja2's own code
(0.2 to 1 µs instead of 6), and safe by construction: what has no closure here cannot be done.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, cast

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.lexer import TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from lxml import etree

from esb.adapter import Expression, Text
from esb.envelope import Envelope
from esb.errors import EsbError, RouteFailure
from esb.expressions import language
from esb.expressions.language import (
    MESSAGE,
    PARAMS,
    PRINCIPAL,
    Missing,
    nearest,
    reason,
    to_text,
    truth,
)
from esb.expressions.queries import compile_jmespath, compile_xpath, xpath_namespaces
from esb.expressions.sandbox import FILTERS, INSTEAD, TESTS, Sandbox, check_arguments, written

MAX_SOURCE = 20_000
FAILURES: Final = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    etree.LxmlError,
)
"""What data can make an expression or a template raise, beside the errors of the bus."""

NOTHING_KNOWN: Final[Mapping[str, Mapping[str, str]]] = {}
QUERIES: Final = ("xpath", "xpath_all", "elements", "soap_header", "jmespath")
_FUNCTIONS: Final[dict[str, Callable[[], Any]]] = {
    "now": language.now,
    "uuid": lambda: str(uuid.uuid4()),
}
_CALLED: Final = (*QUERIES, *_FUNCTIONS)

_SANDBOX: Final = Sandbox()
_PASSED: Final[dict[str, tuple[Any, ...]]] = {
    "context": (_SANDBOX.from_string("").new_context(),),
    "environment": (_SANDBOX,),
}


class ExpressionError(ValueError):
    """An expression that cannot be compiled.

    `offset` counts characters of the source from 0, `hint` says what may have been meant.
    """

    def __init__(self, message: str, offset: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


Known = Mapping[str, Mapping[str, str]]
"""What is known when an expression is compiled, by group and name: `env.REGION`, `route.name`."""


def compile_expression(
    source: str, *, names: Collection[str] = PARAMS, known: Known = NOTHING_KNOWN
) -> Expression:
    """Compile one expression, such as `body.amount > 10000`.

    `names` are the groups of `Envelope.params` that it may name. Raises ExpressionError. The
    function raises RouteFailure when it fails on a message (Missing, if something is not there),
    and BadMessage when the body it needs cannot be read.
    """
    if not source.strip():
        raise ExpressionError("the expression is empty")
    parser = _Parser(source, "variable")
    tree = parser.parse(parser.expression)
    value = _Compiler(source, names, known).compile(tree)

    def expression(envelope: Envelope) -> Any:
        try:
            result = value(envelope)
        except EsbError:
            raise
        except FAILURES as e:
            raise failure(e) from e
        if isinstance(result, Undefined):
            raise reason(result)
        return result

    return expression


def compile_text(
    source: str,
    *,
    names: Collection[str] = PARAMS,
    known: Known = NOTHING_KNOWN,
    escape: Callable[[str], str] | None = None,
) -> Text:
    """Compile plain text with `{{ expressions }}` in it; values are written as by `to_text`.

    `escape` is put over every value, not over the text around it (percent-encoding, for a URL).
    Raises ExpressionError; the function raises as that of `compile_expression` does.
    """
    half = _HALF_OPENED.search(source)
    if half and half[1] in ("body", "text", "headers", "message", *names):
        raise ExpressionError("}} closes what only one { opens", half.start(), "write {{")
    if "{{" not in source and "{%" not in source and "{#" not in source:
        return lambda envelope: source
    parser = _Parser(source, None)
    tree = parser.parse(parser.template)
    compiler = _Compiler(source, names, known)
    parts: list[str | Callable[[Envelope], Any]] = []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            raise ExpressionError(
                "text has no {% %} in it, only {{ }}",
                statement.lineno - 1,
                "write `{{ a if condition else b }}`, or use a template",
            )
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append(node.data)
            else:
                parts.append(compiler.compile(node))

    def text(envelope: Envelope) -> str:
        written: list[str] = []
        try:
            for part in parts:
                if isinstance(part, str):
                    written.append(part)
                else:
                    value = to_text(part(envelope))
                    written.append(escape(value) if escape else value)
        except EsbError:
            raise
        except FAILURES as e:
            raise failure(e) from e
        return "".join(written)

    return text


def syntax(source: str, *, text: bool = False) -> list[nodes.Expr]:
    """The expressions in a source, for those who want to know what it asks for: one, or of plain
    text those in `{{ }}`. `lineno` of a node counts characters of the source from 1; what cannot be
    compiled has none."""
    parser = _Parser(source, None if text else "variable")
    try:
        if not text:
            return [parser.parse(parser.expression)]
        tree = parser.parse(parser.template)
    except ExpressionError:
        return []
    return [
        node
        for output in tree.find_all(nodes.Output)
        for node in output.nodes
        if not isinstance(node, nodes.TemplateData)
    ]


def failure(error: BaseException) -> RouteFailure:
    """What a caller may know of an exception that data made an expression or a template raise."""
    if isinstance(error, EsbError):
        return RouteFailure(error.detail)
    if isinstance(error, UndefinedError):
        return Missing(error.message or "something is missing")
    if isinstance(error, RecursionError):
        return RouteFailure("an expression goes too deep")
    if isinstance(error, OverflowError):
        return RouteFailure("an expression makes a value that is too large")
    if isinstance(error, ArithmeticError):
        return RouteFailure("an expression computes something that is no number")
    return RouteFailure(f"an expression failed: {str(error)[:200]}")


_HALF_OPENED: Final = re.compile(r"(?<!\{)\{ *(\w+)(?=[.\[(| }])[^{}\"]*\}\}")


# --- parsing -------------------------------------------------------------------------------------

_SYNTAX: Final[tuple[tuple[str, str, str], ...]] = (
    # (what Jinja2 says, what we say, hint)
    (r"unexpected char '&'", "& is no operator", "write `and`"),
    (r"got '\|'", "|| is no operator", "write `or`; a single | is a filter"),
    (r"unexpected char '!'", "! is no operator", "write `not`"),
    (r"unexpected char '\?'", "? is no operator", "write `a if condition else b`"),
    (r"unexpected char '\$'", "$ is no operator", "`${NAME}` stands in plain values only"),
    (r"unexpected char .['\"]", "a quote is not closed", ""),
    (r"unexpected char '[\u2018-\u201e]'", "a typographic quote quotes nothing", "write ' or \""),
    (r"unexpected '='|got '='", "= is no comparison", "write `==`"),
    (r"unexpected '>'", "an operator is not understood", "not equal is `!=`"),
    (r"Expected an expression", "an expression is missing here", ""),
    (r"end of template|end of print statement", "the expression ends too early", ""),
)  # fmt: skip


class _Parser:
    """Jinja2's parser over tokens whose line number is their place in the source, from 1."""

    def __init__(self, source: str, state: str | None) -> None:
        if len(source) > MAX_SOURCE:
            raise ExpressionError(f"an expression has at most {MAX_SOURCE} characters")
        self.source = source
        self.state = state
        self.last = 1

    def _lexed(self) -> Iterator[tuple[int, str, str]]:
        position = 0
        before = ""
        for _, kind, text in _SANDBOX.lexer.tokeniter(self.source, None, None, self.state):
            found = self.source.find(text, position)
            position = found if found >= 0 else position
            self.last = position + 1
            if kind == before == "string":  # Python would join them
                raise ExpressionError(
                    "two texts stand side by side", position, "put a comma between them, or ~"
                )
            before = before if kind == "whitespace" else kind
            yield self.last, kind, text
            position += len(text)

    def parse(self, what: Callable[[Parser], Any]) -> Any:
        """The syntax tree. Raises ExpressionError."""
        try:
            parser = Parser(_SANDBOX, "", state="variable")
            parser.stream = TokenStream(_SANDBOX.exact(self._lexed(), None, None), None, None)
            return what(parser)
        except TemplateSyntaxError as e:
            raise self._explain(e) from e
        except RecursionError as e:
            raise ExpressionError("the expression is nested too deep") from e

    def expression(self, parser: Parser) -> nodes.Expr:
        """One expression and nothing behind it."""
        if self.source.lstrip().startswith("{{"):
            raise ExpressionError("an expression stands without {{ }}", 0, "leave the braces out")
        tree = parser.parse_expression()
        if not parser.stream.eos:
            token = parser.stream.current
            parser.fail(f"unexpected {token.value!r}", token.lineno)
        return tree

    def template(self, parser: Parser) -> nodes.Template:
        """Text with expressions in it."""
        return parser.parse()

    def _explain(self, error: TemplateSyntaxError) -> ExpressionError:
        message = error.message or "not understood"
        at = re.search(r"unexpected char .* at (\d+)\Z", message, re.DOTALL)
        offset = int(at[1]) if at else max(error.lineno - 1, 0)
        if "end of template" in message or "end of print" in message:
            if self.state:
                offset = len(self.source)
            elif "expected 'end of print statement'" in message:
                return ExpressionError("{{ is not closed", self.source.rfind("{{"), "write }}")
        for pattern, ours, hint in _SYNTAX:
            if re.search(pattern, message):
                return ExpressionError(ours, offset, hint)
        return ExpressionError(message, offset)


# --- compiling -----------------------------------------------------------------------------------

_Value = Callable[[Envelope], Any]
_ALWAYS_TEXT: Final = frozenset(("path", "query"))
DASHED: Final = re.compile(r"([A-Za-z_][\w.]*?)\.([A-Za-z_]\w*(?:-[A-Za-z_]\w*)+)")


class _Compiler:
    """One closure for each node of the syntax tree; a node without a method here is refused."""

    def __init__(self, source: str, names: Collection[str], known: Known) -> None:
        self.source = source
        self.groups = frozenset(names)
        self.known = known
        self.names = ("body", "text", "headers", "message", *names, *known)
        self.may_miss = False  # inside of `default` and `is defined`

    def compile(self, node: nodes.Node) -> _Value:
        """The closure of a node. Raises ExpressionError."""
        kind = type(node).__name__
        compile_ = getattr(self, f"_{kind.lower()}", None)
        if compile_ is None:
            raise self._error(node, f"{kind} is nothing an expression can do")
        try:
            value: _Value = compile_(node)
        except RecursionError as e:
            raise ExpressionError("the expression is nested too deep") from e
        return value

    def _compile_missing(self, node: nodes.Node, may_miss: bool) -> _Value:
        outside, self.may_miss = self.may_miss, may_miss or self.may_miss
        try:
            return self.compile(node)
        finally:
            self.may_miss = outside

    def _error(self, node: nodes.Node, message: str, hint: str = "") -> ExpressionError:
        return ExpressionError(message, max(node.lineno - 1, 0), hint)

    # names

    def _name(self, node: nodes.Name) -> _Value:
        name = node.name
        if name == "body":
            return lambda e: e.body.data
        if name == "text":
            return lambda e: e.body.text
        if name == "headers":
            return lambda e: e.headers
        if name in self.groups:
            return lambda e: e.params.get(name, _NO_PARAMS)
        if name == "message":
            raise self._error(node, "message is no value", "write message.id or the like")
        if name in self.known:
            hint = "write env.NAME" if name == "env" else "write route.name"
            raise self._error(node, f"{name} is no value", hint)
        if name in _CALLED:
            raise self._error(node, f"{name} is a function", f"write {name}(...)")
        raise self._unknown(node, name)

    def _unknown(self, node: nodes.Node, name: str) -> ExpressionError:
        dashed = self._dashed(node)
        if dashed:
            return dashed
        meant = nearest(name, (*self.names, *_CALLED))
        hint = INSTEAD.get(name) or f"did you mean {meant or repr(name)}?"
        return self._error(node, f"there is nothing called {name}", hint)

    def _dashed(self, node: nodes.Node) -> ExpressionError | None:
        """`headers.x-a` is a subtraction, which is never what was meant."""
        for found in DASHED.finditer(self.source):
            if found.start() < node.lineno <= found.end():
                head, tail = found[1], found[2]
                return ExpressionError(
                    f"{head}.{tail} is read as a subtraction",
                    found.start(),
                    f"write {head}['{tail}']",
                )
        return None

    def _const(self, node: nodes.Const) -> _Value:
        value = node.value
        return lambda e: value

    def _templatedata(self, node: nodes.TemplateData) -> _Value:
        text = node.data
        return lambda e: text

    # access

    def _getattr(self, node: nodes.Getattr) -> _Value:
        key, path, owner = node.attr, written(node), node.node
        if isinstance(owner, nodes.Name) and owner.name == "message":
            return self._message_field(node, key)
        if isinstance(owner, nodes.Name) and owner.name in self.known:
            return self._known_value(node, owner.name, key)
        if isinstance(owner, nodes.Name) and owner.name in self.groups:
            group = owner.name
            if group == "principal":
                self._one_of(PRINCIPAL, node, group, key)
            return lambda e: language.field(e.params.get(group, _NO_PARAMS), key, path)
        inner = self.compile(owner)
        field = language.field
        return lambda e: field(inner(e), key, path)

    def _known_value(self, node: nodes.Node, group: str, key: str) -> _Value:
        """A constant: what it is, is known when routes are loaded."""
        try:
            value = self.known[group][key]
        except KeyError:
            if group != "env":
                raise self._error(
                    node, f"{group} has no {key}", f"it has {', '.join(self.known[group])}"
                ) from None
            if not self.may_miss:
                raise self._error(
                    node,
                    f"the environment variable {key} is not set",
                    f"set it, or write env.{key} | default('...')",
                ) from None
            nothing = language.missing(f"env.{key} is not set")
            return lambda e: nothing
        return lambda e: value

    def _message_field(self, node: nodes.Node, key: str) -> _Value:
        self._one_of(MESSAGE, node, "message", key)
        return MESSAGE[key]

    def _one_of(self, names: Collection[str], node: nodes.Node, group: str, key: str) -> None:
        """What a group has is known: anything else is a slip."""
        if key not in names:
            meant = nearest(key, names)
            hint = f"did you mean {group}.{meant}?" if meant else "it has " + ", ".join(names)
            raise self._error(node, f"{group} has no {key}", hint)

    def _getitem(self, node: nodes.Getitem) -> _Value:
        path = written(node)
        if isinstance(node.node, nodes.Name) and node.node.name in ("message", *self.known):
            if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
                name = node.node.name
                if name == "message":
                    return self._message_field(node, node.arg.value)
                return self._known_value(node, name, node.arg.value)
            return self._name(node.node)  # which says that it is no value
        named = isinstance(node.node, nodes.Name) and node.node.name == "principal"
        if named and "principal" in self.groups and isinstance(node.arg, nodes.Const):
            self._one_of(PRINCIPAL, node, "principal", str(node.arg.value))
        inner = self.compile(node.node)
        item = language.item
        if isinstance(node.arg, nodes.Const):
            constant = node.arg.value
            return lambda e: item(inner(e), constant, path)
        key = self.compile(node.arg)
        return lambda e: item(inner(e), key(e), path)

    def _slice(self, node: nodes.Slice) -> _Value:
        parts = [
            self.compile(part) if part is not None else None
            for part in (node.start, node.stop, node.step)
        ]
        return lambda e: slice(*(None if part is None else part(e) for part in parts))

    # values

    def _needed(self, node: nodes.Node) -> _Value:
        """The closure of a part of a list or an object, which must not be missing."""
        inner = self.compile(node)

        def needed(envelope: Envelope) -> Any:
            value = inner(envelope)
            if isinstance(value, Undefined):
                raise reason(value)
            return value

        return needed

    def _list(self, node: nodes.List | nodes.Tuple) -> _Value:
        items = [self._needed(each) for each in node.items]
        return lambda e: [each(e) for each in items]

    _tuple = _list

    def _dict(self, node: nodes.Dict) -> _Value:
        pairs = [(self._needed(pair.key), self._needed(pair.value)) for pair in node.items]

        def make(envelope: Envelope) -> dict[str, Any]:
            made = {key(envelope): value(envelope) for key, value in pairs}
            if not all(isinstance(key, str) for key in made):
                raise RouteFailure("the keys of an object are texts")
            return made

        return make

    # logic

    def _and(self, node: nodes.And) -> _Value:
        left, right = self.compile(node.left), self.compile(node.right)

        def both(envelope: Envelope) -> Any:
            value = left(envelope)
            return right(envelope) if truth(value) else value

        return both

    def _or(self, node: nodes.Or) -> _Value:
        left, right = self.compile(node.left), self.compile(node.right)

        def either(envelope: Envelope) -> Any:
            value = left(envelope)
            return value if truth(value) else right(envelope)

        return either

    def _not(self, node: nodes.Not) -> _Value:
        inner = self.compile(node.node)
        return lambda e: not truth(inner(e))

    def _condexpr(self, node: nodes.CondExpr) -> _Value:
        test, then = self.compile(node.test), self.compile(node.expr1)
        if node.expr2 is None:
            raise self._error(node, "an `if` without `else` has no value", "add `else ...`")
        otherwise = self.compile(node.expr2)
        return lambda e: then(e) if truth(test(e)) else otherwise(e)

    def _compare(self, node: nodes.Compare) -> _Value:
        left = self.compile(node.expr)
        links = []
        before: nodes.Node = node.expr
        for operand in node.ops:
            self._refuse_number_and_text(operand.op, before, operand.expr)
            links.append((language.COMPARISONS[operand.op], self.compile(operand.expr)))
            before = operand.expr
        if len(links) == 1:
            compare, right = links[0]
            return lambda e: compare(left(e), right(e))

        def chain(envelope: Envelope) -> bool:
            value = left(envelope)
            for compare, following in links:
                other = following(envelope)
                if not compare(value, other):
                    return False
                value = other
            return True

        return chain

    def _refuse_number_and_text(self, op: str, a: nodes.Node, b: nodes.Node) -> None:
        for text, number in ((a, b), (b, a)):
            root: nodes.Node = text
            while isinstance(root, nodes.Getattr | nodes.Getitem):
                root = root.node
            if (
                text is not root
                and isinstance(root, nodes.Name)
                and root.name in _ALWAYS_TEXT
                and isinstance(number, nodes.Const)
                and language.kind(number.value) == "a number"
                and op not in ("in", "notin")
            ):
                raise self._error(
                    text,
                    f"{written(text)} is text and never equals a number",
                    f"write `{written(text)} | int`, or {str(number.value)!r} in quotes",
                )

    # arithmetic and text

    def _binary(self, operator: str) -> Callable[[Any], _Value]:
        compute = language.ARITHMETIC[operator]

        def compile_(node: nodes.BinExpr) -> _Value:
            left, right = self.compile(node.left), self.compile(node.right)
            return lambda e: compute(left(e), right(e))

        return compile_

    def _add(self, node: nodes.Add) -> _Value:
        return self._binary("+")(node)

    def _sub(self, node: nodes.Sub) -> _Value:
        dashed = self._dashed(node)
        if dashed and dashed.message.startswith("headers."):
            raise dashed
        return self._binary("-")(node)

    def _mul(self, node: nodes.Mul) -> _Value:
        return self._binary("*")(node)

    def _div(self, node: nodes.Div) -> _Value:
        return self._binary("/")(node)

    def _floordiv(self, node: nodes.FloorDiv) -> _Value:
        return self._binary("//")(node)

    def _mod(self, node: nodes.Mod) -> _Value:
        return self._binary("%")(node)

    def _pow(self, node: nodes.Pow) -> _Value:
        return self._binary("**")(node)

    def _neg(self, node: nodes.Neg) -> _Value:
        inner = self.compile(node.node)
        return lambda e: language.negate(inner(e))

    def _pos(self, node: nodes.Pos) -> _Value:
        inner = self.compile(node.node)
        return lambda e: language.add(0, inner(e))

    def _concat(self, node: nodes.Concat) -> _Value:
        parts = [self.compile(part) for part in node.nodes]
        return lambda e: language.concat([part(e) for part in parts])

    # filters, tests, calls

    def _arguments(
        self, node: nodes.Filter | nodes.Test | nodes.Call
    ) -> tuple[list[_Value], dict[str, _Value]]:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise self._error(node, "arguments are written out, without * and **")
        return (
            [self._needed(each) for each in node.args],
            {name: self._needed(value) for name, value in _keywords(node)},
        )

    def _checked(
        self, node: nodes.Filter | nodes.Test, kind: str, known: dict[str, Callable[..., Any]]
    ) -> Callable[..., Any]:
        if node.name not in known:
            meant = nearest(node.name, known)
            hint = INSTEAD.get(node.name) or (f"did you mean {meant}?" if meant else "")
            raise self._error(node, f"there is no {kind} called {node.name}", hint)
        function = known[node.name]
        wrong = check_arguments(function, 1 + len(node.args), [name for name, _ in _keywords(node)])
        if wrong:
            raise self._error(node, f"the {kind} {node.name} is used wrongly: {wrong}")
        return function

    def _filter(self, node: nodes.Filter) -> _Value:
        function = self._checked(node, "filter", FILTERS)
        if node.node is None:
            raise self._error(node, f"the filter {node.name} has nothing before it")
        self._check_named(node)
        inner = self._compile_missing(node.node, node.name in ("default", "d"))
        args, kwargs = self._arguments(node)
        passed = _PASSED.get(getattr(getattr(function, "jinja_pass_arg", None), "name", ""), ())
        settle = language.settle
        if not args and not kwargs:
            return lambda e: settle(function(*passed, inner(e)))
        return lambda e: settle(
            function(
                *passed,
                inner(e),
                *[arg(e) for arg in args],
                **{name: arg(e) for name, arg in kwargs.items()},
            )
        )

    def _check_named(self, node: nodes.Filter) -> None:
        """`map('upper')` names a filter, `select('even')` a test: known at load as well."""
        place = {"map": 0, "select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}
        at = place.get(node.name)
        if at is None or len(node.args) <= at:
            return
        named = node.args[at]
        known, kind = (FILTERS, "filter") if node.name == "map" else (TESTS, "test")
        if not isinstance(named, nodes.Const) or named.value not in known:
            name = named.value if isinstance(named, nodes.Const) else "..."
            meant = nearest(str(name), known)
            hint = f"did you mean '{meant}'?" if meant else ""
            raise self._error(named, f"there is no {kind} called {name}", hint)

    def _test(self, node: nodes.Test) -> _Value:
        function = self._checked(node, "test", TESTS)
        inner = self._compile_missing(node.node, node.name in ("defined", "undefined"))
        args, kwargs = self._arguments(node)
        if node.name in ("defined", "undefined"):
            return lambda e: function(inner(e))

        def test(envelope: Envelope) -> Any:
            value = inner(envelope)
            if isinstance(value, Undefined):
                raise reason(value)
            return function(
                value,
                *[arg(envelope) for arg in args],
                **{name: arg(envelope) for name, arg in kwargs.items()},
            )

        return test

    def _call(self, node: nodes.Call) -> _Value:
        callee = node.node
        if isinstance(callee, nodes.Name):
            if callee.name in QUERIES:
                return self._query(node, callee.name)
            if callee.name in _FUNCTIONS:
                if node.args or node.kwargs:
                    raise self._error(node, f"{callee.name}() takes nothing")
                function = _FUNCTIONS[callee.name]
                return lambda e: function()
            meant = nearest(callee.name, _CALLED)
            is_filter = callee.name in FILTERS or callee.name in INSTEAD
            hint = (
                f"did you mean {meant}()?"
                if meant
                else INSTEAD.get(callee.name, f"use `| {callee.name}`")
                if is_filter
                else ""
            )
            raise self._error(callee, f"there is no function called {callee.name}", hint)
        if isinstance(callee, nodes.Getattr):
            return self._method(node, callee)
        raise self._error(node, "only functions and methods can be called")

    def _method(self, node: nodes.Call, callee: nodes.Getattr) -> _Value:
        name, path = callee.attr, written(callee)
        if name not in language.METHODS:
            meant = nearest(name, language.METHODS)
            hint = INSTEAD.get(name) or (f"did you mean {meant}()?" if meant else "")
            raise self._error(callee, f"there is no method called {name}", hint)
        inner = self.compile(callee.node)
        args, kwargs = self._arguments(node)
        method = language.method
        return lambda e: method(inner(e), name, path)(
            *[arg(e) for arg in args], **{key: arg(e) for key, arg in kwargs.items()}
        )

    def _query(self, node: nodes.Call, name: str) -> _Value:
        if not (
            len(node.args) == 1
            and isinstance(node.args[0], nodes.Const)
            and isinstance(node.args[0].value, str)
        ):
            raise self._error(
                node,
                f"{name}() takes one text in quotes",
                "values go in as variables: xpath('//a[@id=$id]', id=body.id)"
                if name != "jmespath"
                else "",
            )
        source: str = node.args[0].value
        _, kwargs = self._arguments(nodes.Call(node.node, [], node.kwargs, None, None))
        try:
            if name == "jmespath":
                if kwargs:
                    raise ValueError("jmespath() takes nothing but the query")
                query = compile_jmespath(source)
                return lambda e: query(e.body)
            constants = {
                key: each.value if isinstance(each, nodes.Const) else None
                for key, each in _keywords(node)
            }
            namespaces = xpath_namespaces(source, constants)
            query = compile_xpath(source, name, namespaces)
        except ValueError as e:
            hint = (
                f"name it: {name}('...', prefix='urn:its-namespace')" if "prefix" in str(e) else ""
            )
            raise self._error(node.args[0], str(e), hint) from e
        values = {key: value for key, value in kwargs.items() if key not in namespaces}
        if not values:
            return lambda e: query(e.body)
        return lambda e: query(e.body, **{key: value(e) for key, value in values.items()})


def _keywords(node: nodes.Filter | nodes.Test | nodes.Call) -> list[tuple[str, nodes.Expr]]:
    # Keyword nodes, whatever Jinja2's annotations say.
    return [(keyword.key, keyword.value) for keyword in cast(list[nodes.Keyword], node.kwargs)]


_NO_PARAMS: Final[dict[str, Any]] = {}
__all__ = [
    "FAILURES",
    "QUERIES",
    "ExpressionError",
    "compile_expression",
    "compile_text",
    "failure",
]
