"""The vocabulary that expressions and templates share: data access, operators, methods, text.

Nothing here reaches an attribute of a Python object: an attribute is a key of the data, a method
one of a list. What could make a gigantic value from a small one is measured before it is made.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from importlib.metadata import entry_points
from typing import Any, Final

from jinja2.runtime import StrictUndefined, Undefined
from lxml import etree

from esb.clock import current
from esb.codecs.json import dumps
from esb.envelope import Envelope, Headers
from esb.errors import RouteFailure
from esb.identity import Principal

PARAMS: Final = (
    *("path", "query", "reply", "cloudevents", "error", "turn", "group", "sequence", "split"),
    "principal",
    *sorted({point.name for point in entry_points(group="esb.adapters")}),
)
"""The groups of `Envelope.params` that can be named when nobody says which: those of the engine,
and of each adapter what it tells of its protocol, under its key in YAML."""

MESSAGE: Final[Mapping[str, Callable[[Envelope], Any]]] = {
    name: operator.attrgetter(name)
    for name in (
        "id",
        "source",
        "type",
        "time",
        "subject",
        "correlation_id",
        "content_type",
        "attempt",
        "principal",
        "traceparent",
    )
}
"""What `message.` has."""

PRINCIPAL: Final = Principal.__struct_fields__
"""What `principal.` may have."""

MAX_TEXT = 10_000_000
"""How long a text or a list may get, in characters or items."""

_MAX_BITS = 1 << 14
EXACT = Context(prec=4300)
_QUOTIENT = Context(prec=34)  # decimal128: what does not divide evenly is rounded there


# --- what is missing, and access to data ---------------------------------------------------------


def missing(reason: str) -> StrictUndefined:
    """What is not there, and why: raises when anything but `defined` or `default` looks at it."""
    return StrictUndefined(hint=reason)


class Missing(RouteFailure):
    """Something that an expression needs is not there."""


def reason(undefined: Undefined) -> Missing:
    """The error that says what is missing."""
    return Missing(undefined._undefined_message)


def kind(value: Any) -> str:
    """What a value is, in the words of people who write routes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float | Decimal):
        return "a number"
    for type_, name in _KINDS:
        if isinstance(value, type_):
            return name
    return "something else"


_KINDS: Final[Sequence[tuple[Any, str]]] = (
    (str, "text"),
    (bytes, "bytes"),
    (Mapping, "an object"),
    (Headers, "the headers"),
    (list | tuple, "a list"),
    (datetime, "a time"),
    (etree._Element, "XML"),
)
_TIME_FIELDS = frozenset(("year", "month", "day", "hour", "minute", "second", "microsecond"))


def field(value: Any, key: str, path: str) -> Any:
    """`value.key`: the value under a key, never an attribute or a method of the object.

    Gives an Undefined that knows the whole `path` if it is not there. Raises RouteFailure for XML
    and bytes, which have no fields at all.
    """
    if isinstance(value, Headers):
        found = value.get(key, _NOTHING)
        return missing(f"the header {key!r} is missing") if found is _NOTHING else found
    if type(value) is dict or isinstance(value, Mapping):
        try:
            return value[key]
        except KeyError:
            return missing(f"{path} is missing")
    if isinstance(value, Undefined):
        return value
    if isinstance(value, etree._Element):
        raise RouteFailure(f"{path} cannot be read: the body is XML, which xpath('...') reads")
    if isinstance(value, bytes):
        raise RouteFailure(f"{path} cannot be read: the body is bytes, not data with fields")
    if isinstance(value, datetime) and key in _TIME_FIELDS:
        return getattr(value, key)
    if isinstance(value, tuple) and key in getattr(value, "_fields", ()):
        return getattr(value, key)  # `grouper` and `list` of the groupby filter
    return missing(f"{path} is missing: what should hold it is {kind(value)}")


def item(value: Any, key: Any, path: str) -> Any:
    """`value[key]`: an item by number or by name, or a slice; an Undefined if it is not there."""
    if isinstance(key, str):
        return field(value, key, path)
    if isinstance(value, Undefined):
        return value
    if isinstance(key, Undefined):
        raise reason(key)
    if isinstance(value, list | tuple | str):
        if isinstance(key, slice):
            return value[key]
        if isinstance(key, Decimal) and key == key.to_integral_value():
            key = int(key)
        if isinstance(key, int):
            try:
                return value[key]
            except IndexError:
                return missing(f"{path} is missing: there are {len(value)} items")
    if isinstance(value, etree._Element | bytes):
        return field(value, str(key), path)
    return missing(f"{path} is missing: {kind(value)} has no items by number")


_NOTHING: Final = object()


# --- truth, comparison, arithmetic ---------------------------------------------------------------


def truth(value: Any) -> bool:
    """Whether a condition holds. Raises for XML, whose truth nobody could guess."""
    if isinstance(value, etree._Element):
        raise RouteFailure("XML is no condition: ask for something in it with xpath('...')")
    return bool(value)


def _number(value: Any) -> int | Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return value
    return Decimal(repr(value)) if isinstance(value, float) else None


def _mismatch(verb: str, a: Any, b: Any) -> RouteFailure:
    for value in (a, b):
        if isinstance(value, Undefined):
            return reason(value)
    hint = ""
    if {kind(a), kind(b)} == {"text", "a number"}:
        hint = ": make a number of the text with `| int` or `| decimal`"
        if verb == "add":
            hint += ", or join texts with ~"
    elif "XML" in (kind(a), kind(b)):
        hint = ": read it with xpath('...')"
    return RouteFailure(f"cannot {verb} {kind(a)} and {kind(b)}{hint}")


def equal(a: Any, b: Any) -> bool:
    """`a == b`, exact for numbers of any type. Raises for XML."""
    if type(a) is type(b) is str:
        return bool(a == b)
    if isinstance(a, float) != isinstance(b, float):
        x, y = _number(a), _number(b)
        return x is not None and y is not None and x == y
    if isinstance(a, etree._Element) or isinstance(b, etree._Element):
        raise _mismatch("compare", a, b)
    return bool(a == b)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ordered(a: Any, b: Any) -> bool:
        x, y = _number(a), _number(b)
        if x is not None and y is not None:
            return compare(x, y)
        for types in (str, list, tuple, datetime):
            if isinstance(a, types) and isinstance(b, types):
                return compare(a, b)
        raise _mismatch("compare", a, b)

    return ordered


def contains(value: Any, container: Any) -> bool:
    """`value in container`: in a text, a list, the keys of an object, the names of the headers."""
    if isinstance(container, str):
        if isinstance(value, str):
            return value in container
    elif isinstance(container, list | tuple):
        return any(equal(value, each) for each in container)
    elif isinstance(container, Mapping | Headers):
        if isinstance(value, Undefined):
            raise reason(value)
        return value in container
    raise _mismatch("look for an item:", value, container)


COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": equal,
    "ne": lambda a, b: not equal(a, b),
    "lt": _ordered(operator.lt),
    "lteq": _ordered(operator.le),
    "gt": _ordered(operator.gt),
    "gteq": _ordered(operator.ge),
    "in": contains,
    "notin": lambda a, b: not contains(a, b),
}


def _too_large(what: str) -> RouteFailure:
    return RouteFailure(f"an expression makes a {what} that is too large")


def fits(size: int) -> None:
    """Raises RouteFailure if a text or a list would be longer than `MAX_TEXT`."""
    if size > MAX_TEXT:
        raise _too_large("value")


def _fits_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise _too_large("number")


def add(a: Any, b: Any) -> Any:
    """`a + b`: numbers exactly, texts, lists."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return x + y if type(x) is type(y) is int else EXACT.add(Decimal(x), Decimal(y))
    if isinstance(a, str) and isinstance(b, str):
        fits(len(a) + len(b))
        return a + b
    if isinstance(a, list) and isinstance(b, list):
        fits(len(a) + len(b))
        return a + b
    raise _mismatch("add", a, b)


def subtract(a: Any, b: Any) -> Any:
    """`a - b`: numbers, exactly."""
    x, y = _number(a), _number(b)
    if x is None or y is None:
        raise _mismatch("subtract", a, b)
    return x - y if type(x) is type(y) is int else EXACT.subtract(Decimal(x), Decimal(y))


def multiply(a: Any, b: Any) -> Any:
    """`a * b`: numbers exactly; a text or a list so many times, up to `MAX_TEXT`."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        if type(x) is type(y) is int:
            _fits_bits(x.bit_length() + y.bit_length())
            return x * y
        return EXACT.multiply(Decimal(x), Decimal(y))
    if isinstance(y, int) and isinstance(a, str | list):
        fits(len(a) * y)
        return a * y
    raise _mismatch("multiply", a, b)


def divide(a: Any, b: Any) -> Any:
    """`a / b`: a Decimal, rounded to 34 digits where it does not divide evenly."""
    x, y = _number(a), _number(b)
    if x is None or y is None:
        raise _mismatch("divide", a, b)
    if not y:
        raise RouteFailure("an expression divides by zero")
    return _QUOTIENT.divide(Decimal(x), Decimal(y))


def floor_divide(a: Any, b: Any) -> Any:
    """`a // b`, rounded down."""
    return subtract(a, modulo(a, b)) // _number(b)


def modulo(a: Any, b: Any) -> Any:
    """`a % b`, with the sign of `b`."""
    x, y = _number(a), _number(b)
    if x is None or y is None:
        raise _mismatch("take the remainder of", a, b)
    if not y:
        raise RouteFailure("an expression divides by zero")
    if isinstance(x, int) and isinstance(y, int):
        return x % y
    rest = EXACT.remainder(Decimal(x), Decimal(y))
    return EXACT.add(rest, Decimal(y)) if rest and (rest < 0) != (y < 0) else rest


def power(a: Any, b: Any) -> Any:
    """`a ** b` for whole exponents."""
    x, y = _number(a), _number(b)
    if x is None or y is None:
        raise _mismatch("raise to a power:", a, b)
    if y % 1:
        raise RouteFailure("an exponent is a whole number")
    if not -_MAX_BITS <= y <= _MAX_BITS:
        raise _too_large("number")
    exponent = int(y)
    if isinstance(x, int):
        _fits_bits(x.bit_length() * abs(exponent))
        if exponent >= 0:
            return x**exponent
    return _QUOTIENT.power(Decimal(x), exponent)


ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "//": floor_divide,
    "%": modulo,
    "**": power,
}


def negate(value: Any) -> Any:
    """`-value`."""
    return subtract(0, value)


# --- text ----------------------------------------------------------------------------------------


def to_text(value: Any) -> str:
    """A value as text: true and false, exact decimals, ISO 8601 times, JSON for lists and objects.

    Raises RouteFailure for null, which has none: `| default('', true)` says what to write instead.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Undefined):
        raise reason(value)
    if value is None:
        raise RouteFailure("null has no text: `| default('', true)` would say what to write")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict | list | tuple):
        return dumps(value).decode()
    if isinstance(value, float):
        return str(value)
    raise RouteFailure(
        f"{kind(value)} has no text"
        + (": xpath('...') reads it" if isinstance(value, etree._Element) else "")
    )


def concat(parts: Iterable[Any]) -> str:
    """`a ~ b`: the texts joined."""
    texts = [to_text(part) for part in parts]
    fits(sum(map(len, texts)))
    return "".join(texts)


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise RouteFailure(f"a text is needed there, not {kind(value)}")
    return value


def replace(text: Any, old: str, new: str, count: int = -1) -> str:
    """Every `old` in the text replaced by `new`, or the first `count`."""
    text, old, new = to_text(text), to_text(old), to_text(new)
    found = text.count(old) if count < 0 else min(text.count(old), count)
    fits(len(text) + found * max(0, len(new) - len(old)))
    return str.replace(text, old, new, count)


def join(values: Any, separator: str = "", attribute: str | None = None) -> str:
    """The texts of a list with a separator between them."""
    if attribute is not None:
        values = [field(value, attribute, attribute) for value in values]
    texts = [to_text(value) for value in values]
    fits(sum(map(len, texts)) + len(separator) * len(texts))
    return _plain(separator).join(texts)


def _padded(pad: Callable[..., str]) -> Callable[..., str]:
    def padded(text: str, width: int, *fill: str) -> str:
        fits(width)
        return pad(text, width, *fill)

    return padded


def _strftime(moment: datetime, pattern: str) -> str:
    if len(pattern) > 200:
        raise RouteFailure("the pattern of a time is too long")
    return moment.strftime(pattern)


TEXT_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "capitalize": str.capitalize,
    "endswith": str.endswith,
    "find": str.find,
    "isdigit": str.isdigit,
    "join": lambda text, values: join(values, text),
    "ljust": _padded(str.ljust),
    "lower": str.lower,
    "lstrip": str.lstrip,
    "partition": str.partition,
    "removeprefix": str.removeprefix,
    "removesuffix": str.removesuffix,
    "replace": replace,
    "rjust": _padded(str.rjust),
    "rpartition": str.rpartition,
    "rsplit": str.rsplit,
    "rstrip": str.rstrip,
    "split": str.split,
    "splitlines": str.splitlines,
    "startswith": str.startswith,
    "strip": str.strip,
    "title": str.title,
    "upper": str.upper,
    "zfill": _padded(str.zfill),
}
TIME_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "isoformat": to_text,
    "strftime": _strftime,
}
METHODS: Final = frozenset(TEXT_METHODS) | frozenset(TIME_METHODS)


class Method:
    """A method of the list, bound to the text or time it was asked of."""

    __slots__ = ("_function", "_value")

    def __init__(self, function: Callable[..., Any], value: Any) -> None:
        self._function = function
        self._value = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._value, *args, **kwargs)


def method(value: Any, name: str, path: str) -> Method:
    """The method `name` of a text or a time. Raises RouteFailure if it has none of that name."""
    methods = (
        TEXT_METHODS
        if isinstance(value, str)
        else TIME_METHODS
        if isinstance(value, datetime)
        else {}
    )
    if name in methods:
        return Method(methods[name], value)
    if isinstance(value, Undefined):
        raise reason(value)
    raise RouteFailure(f"{path}() cannot be called: {kind(value)} has no method {name}")


# --- help ----------------------------------------------------------------------------------------


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of `words` that was probably meant, or ""."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return found[0] if found else ""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.fromtimestamp(current.get().time(), UTC)


def settle(value: Any) -> Any:
    """A value that is finished: a list of what comes bit by bit, nothing missing in it."""
    if isinstance(value, Iterator):
        value = list(value)
        for each in value:
            if isinstance(each, Undefined):
                raise reason(each)
    return value
