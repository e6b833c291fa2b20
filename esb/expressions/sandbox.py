"""The Jinja2 environment of the bus: its parser, its filters, and nothing but data to touch.

Expressions use it to parse and for its filters, templates to render. Both see data through
`esb.expressions.language`, so that no attribute of a Python object can be reached, and steps are
counted, so that a small template cannot run for hours.
"""

from __future__ import annotations

import base64
import binascii
import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import filters, nodes, tests
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import TemplateModule
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import (
    BlockReference,
    LoopContext,
    Macro,
    StrictUndefined,
    TemplateReference,
    Undefined,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

from esb.codecs.json import dumps, loads
from esb.errors import BadMessage, RouteFailure
from esb.expressions import language
from esb.expressions.language import kind, reason, to_text

MAX_STEPS = 200_000
"""How often the loops of one rendering may go round, or four times its macros be called."""

MAX_CHARACTERS = 10_000
"""Of a text that is given to a filter for lists."""

_JINJA = (LoopContext, Namespace, TemplateModule, TemplateReference, BlockReference)


class Budget(threading.local):
    """What one rendering may still do; a rendering stays in one thread."""

    steps = MAX_STEPS
    characters = language.MAX_TEXT

    def renew(self) -> None:
        """A new rendering begins."""
        self.steps = MAX_STEPS
        self.characters = language.MAX_TEXT

    def step(self, cost: int = 1) -> None:
        """One more time round. Raises RouteFailure over `MAX_STEPS`."""
        self.steps -= cost
        if self.steps < 0:
            raise RouteFailure("a template runs too long")

    def write(self, text: str) -> None:
        """That much more text. Raises RouteFailure over `MAX_TEXT`."""
        self.characters -= len(text)
        if self.characters < 0:
            raise RouteFailure("a template writes too much")


BUDGET: Final = Budget()


# --- filters -------------------------------------------------------------------------------------


def _int(value: Any, default: Any = None) -> Any:
    """A whole number: of text, or a number without its fraction."""
    try:
        if isinstance(value, str):
            number = loads(value.strip().removeprefix("+").encode())
            if isinstance(number, int) and not isinstance(number, bool):
                return number
        elif isinstance(value, int | float | Decimal):
            return int(value)
        elif isinstance(value, Undefined):
            raise reason(value)
    except (BadMessage, ValueError, OverflowError, UnicodeEncodeError):
        pass
    if default is not None:
        return default
    raise RouteFailure(f"{_shown(value)} is no whole number")


def _decimal(value: Any, default: Any = None) -> Any:
    """A number with all its digits, of text or of another number."""
    try:
        if isinstance(value, str):
            number = loads(value.strip().removeprefix("+").encode())
            if isinstance(number, int | Decimal) and not isinstance(number, bool):
                return Decimal(number)
        elif isinstance(value, bool):
            pass
        elif isinstance(value, int | Decimal):
            return Decimal(value)
        elif isinstance(value, float):
            return Decimal(repr(value))
        elif isinstance(value, Undefined):
            raise reason(value)
    except (BadMessage, InvalidOperation, UnicodeEncodeError):
        pass
    if default is not None:
        return default
    raise RouteFailure(f"{_shown(value)} is no number")


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else kind(value)


_COMPARE: Final = language.COMPARISONS
_ROUNDING: Final = {"common": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}


def _round(value: Any, precision: int = 0, method: str = "common") -> Decimal:
    """Rounded to so many decimals; half goes up, away from zero."""
    if method not in _ROUNDING or not -100 <= precision <= 100:
        raise RouteFailure("round takes up to 100 decimals and 'common', 'ceil' or 'floor'")
    number = _decimal(value)
    return number.quantize(  # type: ignore[no-any-return]
        Decimal(1).scaleb(-precision), _ROUNDING[method], language.EXACT
    )


def _abs(value: Any) -> Any:
    return language.negate(value) if _COMPARE["lt"](value, 0) else language.add(value, 0)


def _sum(values: Iterable[Any], attribute: str | None = None, start: Any = 0) -> Any:
    """The exact sum of a list, or of one field of its items."""
    total = start
    for value in values:
        total = language.add(total, value if attribute is None else _at(value, attribute))
    return total


def _at(value: Any, attribute: str) -> Any:
    for name in attribute.split("."):
        value = language.item(value, int(name) if name.isdigit() else name, attribute)
    if isinstance(value, Undefined):
        raise reason(value)
    return value


def _tojson(value: Any) -> str:
    """JSON text, exact."""
    if isinstance(value, Undefined):
        raise reason(value)
    return dumps(value).decode()


def _fromjson(value: Any) -> Any:
    """The data of a JSON text."""
    return loads(to_text(value).encode())


def _base64(value: Any) -> str:
    """Base64 of bytes, or of text in UTF-8."""
    raw = value if isinstance(value, bytes) else to_text(value).encode()
    return base64.b64encode(raw).decode("ascii")


def _unbase64(value: Any) -> str:
    """The text whose UTF-8 is written in base64."""
    try:
        return base64.b64decode(to_text(value).encode(), validate=True).decode()
    except (binascii.Error, ValueError) as e:
        raise RouteFailure("a value is no text in base64") from e


def _urlencode(value: Any) -> str:
    """Percent-encoded, "/" too; of an object, a query string."""
    if isinstance(value, Mapping):
        return urlencode({k: to_text(v) for k, v in value.items()}, quote_via=quote)
    return quote(to_text(value), safe="")


def _items(value: Any) -> list[tuple[str, Any]]:
    """The pairs of an object."""
    if isinstance(value, Undefined):
        raise reason(value)
    if not isinstance(value, Mapping):
        raise RouteFailure(f"there are items and values of an object, not of {kind(value)}")
    return list(value.items())


def _values(value: Any) -> list[Any]:
    """The values of an object."""
    return [one for _, one in _items(value)]


def _length(value: Any) -> int:
    """How many characters, items or fields."""
    if isinstance(value, str | list | tuple | Mapping | bytes):
        return len(value)
    if isinstance(value, Undefined):
        raise reason(value)
    if isinstance(value, Iterator):
        return sum(1 for _ in value)
    raise RouteFailure(f"{kind(value)} has no length")


def _of_text(function: Callable[..., str]) -> Callable[..., str]:
    def filter_(value: Any, *args: Any) -> str:
        return function(to_text(value), *args)

    return filter_


def _indent(value: Any, width: int = 4, first: bool = False) -> str:
    """Every line but the first moved to the right."""
    text = to_text(value)
    language.fits(len(text) + (text.count("\n") + 1) * max(0, width))
    pad = " " * width
    return (pad if first else "") + text.replace("\n", "\n" + pad)


def _batch(values: Iterable[Any], count: int, fill: Any = None) -> list[list[Any]]:
    """Lists of `count` items each, the last one filled up."""
    if not 0 < count <= 10_000:
        raise RouteFailure("batch takes up to 10000 items a list")
    every = list(values)
    batches = [every[i : i + count] for i in range(0, len(every), count)]
    if fill is not None and batches:
        batches[-1] += [fill] * (count - len(batches[-1]))
    return batches


def _truncate(value: Any, length: int = 255, end: str = "...") -> str:
    """At most `length` characters, the end shown by dots."""
    text = to_text(value)
    return text if len(text) <= length else text[: max(0, length - len(end))] + end


@pass_context
def _each(context: Any, values: Any) -> Iterator[Any]:
    """What a loop goes through, counted."""
    if isinstance(values, Undefined):
        raise reason(values)
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise RouteFailure(f"a loop needs a list, not {kind(values)}")
    return _counted(values)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        BUDGET.step()
        yield value


def _settled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja2's that gives its items bit by bit, giving them at once, none missing."""

    @functools.wraps(function)  # with the mark that tells what Jinja2 passes to it
    def filter_(*args: Any, **kwargs: Any) -> Any:
        return language.settle(function(*args, **kwargs))

    return filter_


def _of_items(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter for lists. To it a text is its characters; who sends a long one where the route
    expects a list would keep it busy for seconds."""
    place = 1 if hasattr(function, "jinja_pass_arg") else 0  # of the value

    @functools.wraps(function)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        if isinstance(args[place], str | bytes) and len(args[place]) > MAX_CHARACTERS:
            raise RouteFailure(f"{kind(args[place])} of that length is no list")
        return function(*args, **kwargs)

    return filter_


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "abs": _abs,
    "base64": _base64,
    "batch": _of_items(_batch),
    "capitalize": _of_text(str.capitalize),
    "count": _length,
    "d": filters.do_default,
    "decimal": _decimal,
    "default": filters.do_default,
    "dictsort": filters.do_dictsort,
    "first": filters.sync_do_first,
    "fromjson": _fromjson,
    "groupby": _of_items(filters.sync_do_groupby),
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _of_items(language.join),
    "last": filters.do_last,
    "length": _length,
    "list": _of_items(filters.sync_do_list),
    "lower": _of_text(str.lower),
    "map": _settled(_of_items(filters.sync_do_map)),
    "max": _of_items(filters.do_max),
    "min": _of_items(filters.do_min),
    "reject": _settled(_of_items(filters.sync_do_reject)),
    "rejectattr": _settled(_of_items(filters.sync_do_rejectattr)),
    "replace": language.replace,
    "reverse": filters.do_reverse,
    "round": _round,
    "select": _settled(_of_items(filters.sync_do_select)),
    "selectattr": _settled(_of_items(filters.sync_do_selectattr)),
    "sort": _of_items(filters.do_sort),
    "string": to_text,
    "sum": _of_items(_sum),
    "title": _of_text(str.title),
    "tojson": _tojson,
    "trim": _of_text(str.strip),
    "truncate": _truncate,
    "unbase64": _unbase64,
    "unique": _settled(_of_items(filters.do_unique)),
    "upper": _of_text(str.upper),
    "urlencode": _urlencode,
    "values": _values,
}

INSTEAD: Final = {
    "float": "use `| decimal`: numbers are exact here",
    "number": "use `| int` or `| decimal`",
    "str": "use `| string`",
    "json": "use `| tojson`",
    "get": "use `['key'] | default(...)`",
    "keys": "use `| list`",
    "values": "use `| values`",
    "items": "use `| items`",
    "format": "join texts with ~",
    "attr": "write `.name` or `['name']`",
    "len": "use `| length`",
    "null": "use `none`",
}
"""What to write instead of a filter, method, function or word there is none of."""

TESTS: Final[dict[str, Callable[..., Any]]] = {
    "boolean": tests.test_boolean,
    "defined": tests.test_defined,
    "divisibleby": tests.test_divisibleby,
    "even": tests.test_even,
    "false": tests.test_false,
    "integer": tests.test_integer,
    "iterable": tests.test_iterable,
    "lower": tests.test_lower,
    "mapping": tests.test_mapping,
    "none": tests.test_none,
    "number": tests.test_number,
    "odd": tests.test_odd,
    "sequence": tests.test_sequence,
    "string": tests.test_string,
    "true": tests.test_true,
    "undefined": tests.test_undefined,
    "upper": tests.test_upper,
    "eq": _COMPARE["eq"],
    "ne": _COMPARE["ne"],
    "lt": _COMPARE["lt"],
    "le": _COMPARE["lteq"],
    "gt": _COMPARE["gt"],
    "ge": _COMPARE["gteq"],
    "in": _COMPARE["in"],
}


def check_arguments(function: Callable[..., Any], given: int, names: Iterable[str]) -> str:
    """What is wrong with calling `function` so, "" if nothing. `given` counts the piped value."""
    passed = 1 if getattr(function, "jinja_pass_arg", None) else 0
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins tell nothing about themselves
        return ""
    try:
        signature.bind(*[None] * (given + passed), **dict.fromkeys(names))
    except TypeError as e:
        return str(e)
    return ""


# --- the environment -----------------------------------------------------------------------------


def written(node: nodes.Node) -> str:
    """How people would write a node, where it is a plain path."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{written(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        key = repr(node.arg.value) if isinstance(node.arg, nodes.Const) else "..."
        return f"{written(node.node)}[{key}]"
    return "a value"


class _Generator(CodeGenerator):
    """Jinja2's compiler, taught Decimal literals, joining with a limit, and whole paths."""

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 - Jinja2's
        self.write("environment.member(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r}, {written(node)!r})")

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.value, Decimal):
            self.write(f"environment.decimal({str(node.value)!r})")
        else:
            super().visit_Const(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 where an attribute is a key of the data and only listed functions can be called."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(language.ARITHMETIC)
    intercepted_unops = frozenset("+-")
    decimal = staticmethod(Decimal)
    concat_texts = staticmethod(language.concat)

    def __init__(self, **options: Any) -> None:
        options.setdefault("keep_trailing_newline", True)
        super().__init__(undefined=StrictUndefined, **options)
        self.filters = dict(FILTERS, _each=_each)
        self.tests = dict(TESTS)
        self.globals = {"range": self.globals["range"], "namespace": Namespace}
        self._callable: set[Any] = set(self.globals.values())

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        lexed = self.lexer.tokeniter(source, name, filename, state)
        return TokenStream(self.exact(lexed, name, filename), name, filename)

    def exact(
        self, lexed: Iterable[tuple[int, str, str]], name: str | None, filename: str | None
    ) -> Iterator[Token]:
        """Jinja2's tokens, but with decimals for the literals it would make floats of."""
        literals: deque[str] = deque()

        def watched() -> Iterator[tuple[int, str, str]]:
            for token in lexed:
                if token[1] == "float":
                    literals.append(token[2].replace("_", ""))
                yield token

        for token in self.lexer.wrap(watched(), name, filename):
            if token.type == "float":
                try:
                    value = Decimal(literals.popleft())
                except InvalidOperation:
                    raise TemplateSyntaxError("a number is out of range", token.lineno) from None
                yield Token(token.lineno, "float", value)  # type: ignore[arg-type]
            else:
                yield token

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            counted = nodes.Filter(loop.iter, "_each", [], [], None, None, lineno=loop.lineno)
            loop.iter = counted.set_environment(self)
        return tree

    def member(self, obj: Any, attribute: str, path: str) -> Any:
        """`obj.attribute` in a template, where the whole of it reads `path`."""
        if isinstance(obj, _JINJA):
            return super().getattr(obj, attribute)
        if attribute in language.METHODS and isinstance(obj, str | datetime):
            return language.method(obj, attribute, path)
        return language.field(obj, attribute, path)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`, asked for by Jinja2 itself."""
        return self.member(obj, attribute, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]` in a template."""
        if isinstance(obj, _JINJA):
            return super().getitem(obj, argument)
        return language.item(obj, argument, str(argument))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic in a template."""
        return language.ARITHMETIC[operator](left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        """A sign in a template."""
        return language.negate(arg) if operator == "-" else language.add(0, arg)

    def allow(self, functions: Iterable[Callable[..., Any]]) -> None:
        """Let templates call these."""
        self._callable.update(functions)

    def is_safe_callable(self, obj: Any) -> bool:
        """Macros, blocks, listed functions, methods of the list; no other object of Python's."""
        if isinstance(obj, Macro | BlockReference | language.Method | LoopContext):
            return True
        if isinstance(getattr(obj, "__self__", None), LoopContext):
            return obj.__name__ in ("cycle", "changed")
        try:
            return obj in self._callable
        except TypeError:
            return False

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call in a template. Raises SecurityError for what is not to be called."""
        BUDGET.step(4)  # a macro takes as long as four turns of a loop
        if isinstance(obj, Undefined):
            raise reason(obj)
        if not self.is_safe_callable(obj):
            raise SecurityError(f"{kind(obj)} cannot be called")
        return context.call(obj, *args, **kwargs)
