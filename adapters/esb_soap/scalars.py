"""Values of simple types: text to plain data and back (XML Schema part 2: Datatypes).

Numbers are exact (int, Decimal; float only for float and double, INF and NaN as strings), dates,
base64 and hex are strings that were checked, QNames are "{ns}local", lists are lists.
"""

from __future__ import annotations

import binascii
import calendar
import functools
import math
import operator
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from lxml import etree

from esb_soap.components import XML, XSD, Facets, SimpleType, clark, split
from esb_soap.patterns import BadPattern
from esb_soap.patterns import pattern as compiled

Decode = Callable[[str, "etree._Element | None"], Any]
"""Text, and the element whose namespaces are in scope, to a value. Raises ValueError."""

Encode = Callable[[Any], str]
"""A value to text that is not escaped yet; QNames are marked, see QNAME. Raises ValueError."""

QNAME: Final = re.compile("\x00([^\x00]*)\x00")
"""A QName in encoded text, to be replaced by a prefix and a local name."""


class Scalar(NamedTuple):
    """The codec of a simple type."""

    decode: Decode
    encode: Encode


_SPACE: Final = re.compile(r"[ \t\r\n]+")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,4000}\Z")
_MOST: Final = 10**4000
_DECIMAL: Final = re.compile(r"[+-]?([0-9]{1,4000}(\.[0-9]{0,4000})?|\.[0-9]{1,4000})\Z")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,5})?\Z")
_SPECIAL: Final = {"INF": math.inf, "+INF": math.inf, "-INF": -math.inf, "NaN": math.nan}
_DIGITS: Final = {"true": "1", "false": "0"}
BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
"""The texts of booleans."""
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ZONE: Final = r"(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)?"
_YEAR: Final = r"(-?(?:[1-9]\d{3,}|0(?!000)\d{3}))"  # XML Schema 1.0 has no year 0
_TIME: Final = r"(?:([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d+))?|24:00:00(?:\.0+)?)"
_DATES: Final = {
    "dateTime": re.compile(rf"{_YEAR}-(\d\d)-(\d\d)T{_TIME}{_ZONE}\Z", re.A),
    "date": re.compile(rf"{_YEAR}-(\d\d)-(\d\d){_ZONE}\Z", re.A),
    "time": re.compile(rf"{_TIME}{_ZONE}\Z", re.A),
    "gYearMonth": re.compile(rf"{_YEAR}-(0[1-9]|1[0-2]){_ZONE}\Z", re.A),
    "gYear": re.compile(rf"{_YEAR}{_ZONE}\Z", re.A),
    "gMonthDay": re.compile(
        rf"--(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
        rf"|02-(?:0[1-9]|[12]\d)){_ZONE}\Z",
        re.A,
    ),
    "gDay": re.compile(rf"---(0[1-9]|[12]\d|3[01]){_ZONE}\Z", re.A),
    "gMonth": re.compile(rf"--(0[1-9]|1[0-2])(?:--)?{_ZONE}\Z", re.A),
    "duration": re.compile(
        r"-?P(?=.)(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?\Z", re.A
    ),
}
_DATES["dateTimeStamp"] = _DATES["dateTime"]
_DATES["dayTimeDuration"] = _DATES["yearMonthDuration"] = _DATES["duration"]
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*\Z")
_NAME_START: Final = (
    "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d"
    "\u2070-\u218f\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NAME_REST: Final = _NAME_START + r"\-.0-9\u00b7\u0300-\u036f\u203f-\u2040"
NCNAME: Final = re.compile(f"[{_NAME_START}][{_NAME_REST}]*\\Z")
_NAMES: Final = {
    "Name": re.compile(f"[:{_NAME_START}][:{_NAME_REST}]*\\Z"),
    "NMTOKEN": re.compile(f"[:{_NAME_REST}]+\\Z"),
    "NCName": NCNAME,
    "ID": NCNAME,
    "IDREF": NCNAME,
    "ENTITY": NCNAME,
    "language": re.compile(r"[a-zA-Z]{1,8}(-[a-zA-Z0-9]{1,8})*\Z"),
}
RANGES: Final[dict[str, tuple[int | None, int | None]]] = {
    "integer": (None, None),
    "nonPositiveInteger": (None, 0),
    "negativeInteger": (None, -1),
    "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None),
    "long": (-(2**63), 2**63 - 1),
    "int": (-(2**31), 2**31 - 1),
    "short": (-(2**15), 2**15 - 1),
    "byte": (-128, 127),
    "unsignedLong": (0, 2**64 - 1),
    "unsignedInt": (0, 2**32 - 1),
    "unsignedShort": (0, 65535),
    "unsignedByte": (0, 255),
}
"""The integer types, with their least and greatest values."""

SAFE: Final = 2**53
"""Up to here, on either side of zero, a double holds every integer."""

UNMARKED: Final = frozenset(
    {*_DATES, "boolean", "decimal", "float", "double", "base64Binary", "hexBinary", "language"}
)
"""Types whose texts have nothing that XML would take for markup."""

_ARTICLE: Final = {"integer": "a whole number", "int": "a whole number", "long": "a whole number"}


def white_space(type_: SimpleType) -> str:
    """How white space is treated: preserve, replace or collapse."""
    if type_.facets.white_space:
        return type_.facets.white_space
    if type_.primitive in ("string", "anySimpleType", "anyAtomicType"):
        return "preserve"
    return "replace" if type_.primitive == "normalizedString" else "collapse"


def _int_range(type_: SimpleType) -> tuple[int | None, int | None]:
    """The least and the greatest value of an integer type."""
    low, high = RANGES[type_.primitive]
    facets = type_.facets
    for bound, more in ((facets.min_inclusive, 0), (facets.min_exclusive, 1)):
        if bound is not None and _INTEGER.match(bound):
            low = int(bound) + more if low is None else max(low, int(bound) + more)
    for bound, less in ((facets.max_inclusive, 0), (facets.max_exclusive, 1)):
        if bound is not None and _INTEGER.match(bound):
            high = int(bound) - less if high is None else min(high, int(bound) - less)
    return low, high


def is_big(type_: SimpleType) -> bool:
    """Whether it is an integer type with values that a double does not hold exactly."""
    if type_.variety != "atomic" or type_.primitive not in RANGES:
        return False
    if type_.facets.total_digits is not None and type_.facets.total_digits <= 15:
        return False
    low, high = _int_range(type_)
    return low is None or high is None or low < -SAFE or high > SAFE


def int_bounds(type_: SimpleType) -> tuple[int, int] | None:
    """The least and the greatest value of an integer type, if its values are just all between."""
    facets = type_.facets
    if type_.variety != "atomic" or type_.primitive not in RANGES:
        return None
    if facets.enumeration or facets.patterns or facets.total_digits is not None:
        return None
    low, high = _int_range(type_)
    return (-_MOST if low is None else low), (_MOST if high is None else high)


def is_text(type_: SimpleType) -> bool:
    """Whether its integers are strings in data, as they were asked for."""
    return type_.big_as_text and is_big(type_)


def scalar(type_: SimpleType) -> Scalar:
    """The codec of a simple type."""
    made: Scalar | None = type_.codec
    if made is None:
        if type_.variety == "union":
            made = _union(type_)
        elif type_.variety == "list":
            made = _list(type_)
        else:
            made = _atomic(type_)
        if is_text(type_):
            made = _as_text(*made)
        type_.codec = made
    return made


def _as_text(decode: Decode, encode: Encode) -> Scalar:
    return Scalar(lambda text, at: str(decode(text, at)), encode)


def _atomic(type_: SimpleType) -> Scalar:
    name = type_.primitive
    if name in RANGES:
        decode, encode = _integer(name)
    elif name == "boolean":
        decode, encode = _decode_boolean, _encode_boolean
    elif name == "decimal":
        decode, encode = _decode_decimal, _encode_decimal
    elif name in ("float", "double"):
        decode, encode = _decode_float, _encode_float
    elif name in _DATES:
        decode, encode = _checked(functools.partial(_check_date, name))
    elif name == "base64Binary":
        decode, encode = _checked(_check_base64)
    elif name == "hexBinary":
        decode, encode = _checked(_check_hex)
    elif name in ("QName", "NOTATION"):
        decode, encode = _decode_qname, _encode_qname
    elif name in _NAMES:
        decode, encode = _checked(functools.partial(_check_name, name))
    else:
        decode, encode = _decode_string, _encode_string
    if name not in ("string", "anySimpleType", "anyAtomicType") or type_.facets.white_space:
        decode = _spaced(decode, white_space(type_))
    return _restricted(type_, decode, encode)


def _spaced(decode: Decode, how: str) -> Decode:
    if how == "collapse" and decode is not _decode_string:
        # White space makes no value of these types, so it matters only to what does not fit.
        def collapsed(text: str, at: etree._Element | None) -> Any:
            try:
                return decode(text, at)
            except ValueError:
                normal = normal_space(text, how)
                if normal == text:
                    raise
                return decode(normal, at)

        return collapsed
    if how == "preserve":
        return decode
    return lambda text, at: decode(normal_space(text, how), at)


_SPACE_ONE: Final = re.compile(r"[\t\r\n]")


def _decode_string(text: str, at: etree._Element | None) -> Any:
    return text


def _encode_string(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"must be a string, not {kind(value)}")
    if _CONTROL.search(value):
        raise ValueError("has a character that XML does not allow")
    return value


def _checked(check: Callable[[str], str]) -> tuple[Decode, Encode]:
    def encode(value: Any) -> str:
        if type(value) is not str:
            raise ValueError(f"must be a string, not {kind(value)}")
        try:
            return check(value)
        except ValueError:
            normal = normal_space(value, "collapse")
            if normal == value:
                raise
            return check(normal)

    return lambda text, at: check(text), encode


def _decode_boolean(text: str, at: etree._Element | None) -> Any:
    try:
        return BOOLEANS[text]
    except KeyError:
        raise ValueError(f"must be true or false, not '{_short(text)}'") from None


def _encode_boolean(value: Any) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    raise ValueError(f"must be true or false, not {kind(value)}")


def _integer(name: str) -> tuple[Decode, Encode]:
    low, high = RANGES[name]

    def checked(number: int) -> int:
        if low is not None and number < low:
            raise ValueError(f"must not be less than {low}")
        if high is not None and number > high:
            raise ValueError(f"must not be greater than {high}")
        return number

    def decode(text: str, at: etree._Element | None) -> int:
        if not ((text.isdecimal() and text.isascii() and len(text) < 4000) or _INTEGER.match(text)):
            raise ValueError(f"must be a whole number, not '{_short(text)}'")
        return checked(int(text))

    def encode(value: Any) -> str:
        if type(value) is int:
            return _digits_of(checked(value))
        if type(value) is str and _INTEGER.match(value):
            return str(checked(int(value)))
        if (
            isinstance(value, Decimal | float)
            and math.isfinite(value)
            and -(10**30) < value < 10**30
            and value == int(value)
        ):
            return str(checked(int(value)))
        raise ValueError(f"must be a whole number, not {kind(value)}")

    return decode, encode


def _digits_of(number: int) -> str:
    if not -_MOST < number < _MOST:
        raise ValueError("must not have more than 4000 digits")
    return str(number)


def _decode_decimal(text: str, at: etree._Element | None) -> Any:
    if not _DECIMAL.match(text):
        raise ValueError(f"must be a decimal number, not '{_short(text)}'")
    return Decimal(text)


def _encode_decimal(value: Any) -> str:
    if type(value) is str:
        if _DECIMAL.match(value):
            return value
    elif isinstance(value, Decimal):
        if value.is_finite():
            text = str(value)
            if "E" not in text:
                return text
            if abs(value.adjusted()) < 4000:
                return format(value, "f")
    elif type(value) is int:
        return _digits_of(value)
    elif isinstance(value, float) and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    raise ValueError(f"must be a decimal number, not {kind(value)}")


def _decode_float(text: str, at: etree._Element | None) -> Any:
    if _FLOAT.match(text):
        number = float(text)
        if math.isinf(number):
            return "INF" if number > 0 else "-INF"
        return number
    if text in _SPECIAL:
        return text.lstrip("+")
    raise ValueError(f"must be a number, INF, -INF or NaN, not '{_short(text)}'")


def _encode_float(value: Any) -> str:
    if type(value) is str:
        if value in _SPECIAL:
            return value.lstrip("+")
        if _FLOAT.match(value):
            return value
    elif isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "INF" if value > 0 else "-INF"
        return repr(value)
    elif isinstance(value, Decimal) and value.is_finite():
        return str(value)
    elif type(value) is int:
        return _digits_of(value)
    raise ValueError(f"must be a number, 'INF', '-INF' or 'NaN', not {kind(value)}")


def _check_date(name: str, text: str) -> str:
    match = _DATES[name].match(text)
    if match is None or len(text) > 200:
        raise ValueError(f"must be a {name} such as {EXAMPLES[name]}, not '{_short(text)}'")
    if name in ("dateTime", "date", "dateTimeStamp"):
        if "01" <= match[2] <= "12" and "01" <= match[3] <= "28":
            return text
        year, month, day = int(match[1]), int(match[2]), int(match[3])
        # The calendar repeats every 400 years; years before Christ count from 1.
        known = (year + (year < 0)) % 400 + 400
        if not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(known, month)[1]:
            raise ValueError(f"is no day of the calendar: '{_short(text)}'")
    return text


def _check_base64(text: str) -> str:
    text = text.replace(" ", "")
    if not _BASE64.match(text):
        raise ValueError("must be base64")
    return text


def _check_hex(text: str) -> str:
    if not _HEX.match(text):
        raise ValueError("must be hexadecimal, two digits for each byte")
    return text.upper()


def _check_name(name: str, text: str) -> str:
    if not _NAMES[name].match(text):
        raise ValueError(f"must be a {name}, not '{_short(text)}'")
    return text


def _decode_qname(text: str, at: etree._Element | None) -> Any:
    prefix, colon, tag = text.rpartition(":")
    if not NCNAME.match(tag) or (colon and not NCNAME.match(prefix)):
        raise ValueError(f"must be a qualified name, not '{_short(text)}'")
    namespaces = at.nsmap if at is not None else {}
    namespace = namespaces.get(prefix if colon else None)
    if namespace is None:
        if colon and prefix != "xml":
            raise ValueError(f"has the prefix '{_short(prefix)}', which is not declared")
        namespace = XML if colon else ""
    return clark(namespace, tag)


def _encode_qname(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"must be a qualified name ('{{namespace}}name'), not {kind(value)}")
    namespace, tag = split(value)
    if not NCNAME.match(tag) or _CONTROL.search(namespace):
        raise ValueError(f"must be a qualified name ('{{namespace}}name'), not '{_short(value)}'")
    return f"\x00{value}\x00"


def _list(type_: SimpleType) -> Scalar:
    assert type_.item is not None
    item = scalar(type_.item)

    def decode(text: str, at: etree._Element | None) -> Any:
        return [item.decode(part, at) for part in text.split()]

    def encode(value: Any) -> str:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be an array, not {kind(value)}")
        parts = [item.encode(one) for one in value]
        for part in parts:
            if not part or _SPACE.search(part):
                raise ValueError("has an item that is empty or has a space in it")
        return " ".join(parts)

    return _restricted(type_, decode, encode)


def _union(type_: SimpleType) -> Scalar:
    members = [scalar(member) for member in type_.members]
    about = [member.primitive for member in type_.members]

    def decode(text: str, at: etree._Element | None) -> Any:
        for member in members:
            try:
                return member.decode(text, at)
            except ValueError:
                continue
        raise ValueError(f"is none of {', '.join(about)}: '{_short(text)}'")

    def encode(value: Any) -> str:
        # A value that reads back as itself is right; numbers given as text may mean two members.
        fallback: str | None = None
        for member in members:
            try:
                text = member.encode(value)
            except ValueError:
                continue
            if QNAME.search(text):
                return text
            try:
                back = decode(text, None)
            except ValueError:
                continue
            if type(back) is type(value) and back == value:
                return text
            if fallback is None:
                fallback = text
        if fallback is None:
            raise ValueError(f"is none of {', '.join(about)}")
        return fallback

    return _restricted(type_, decode, encode)


# --- facets --------------------------------------------------------------------------------------


def _restricted(type_: SimpleType, decode: Decode, encode: Encode) -> Scalar:
    checks = _checks(type_, decode)
    matches = _matcher(type_)
    if matches is None:
        return _with_checks(type_, decode, encode, checks) if checks else Scalar(decode, encode)
    space = white_space(type_)
    # 007 is the number 7, but a pattern may want its zeros: such a value stays text.
    numeric = type_.primitive in RANGES or type_.primitive == "decimal"
    boolean = type_.primitive == "boolean"

    def formed_decode(text: str, at: etree._Element | None) -> Any:
        normal = text if space == "preserve" else normal_space(text, space)
        if not matches(normal):
            raise ValueError(f"does not have the form it must have: '{_short(normal)}'")
        value = decode(text, at)
        if numeric and not matches(encode(value)):
            return normal
        return value

    def formed_encode(value: Any) -> str:
        text = encode(value)
        if numeric and type(value) is str:
            text = normal_space(value, space)
        if boolean and not matches(text):
            text = _DIGITS[text]  # types that allow only 0 and 1 are common
        if "\x00" not in text and not matches(normal_space(text, space)):
            raise ValueError(f"does not have the form it must have: '{_short(text)}'")
        return text

    if not checks:
        return Scalar(formed_decode, formed_encode)
    return _with_checks(type_, formed_decode, formed_encode, checks)


def _with_checks(
    type_: SimpleType, decode: Decode, encode: Encode, checks: list[Callable[[Any], None]]
) -> Scalar:
    """A codec that checks values by facets, too."""
    # What a written value is when it is read again, where that needs no reading.
    same = {**dict.fromkeys(RANGES, int), "decimal": Decimal}.get(type_.primitive)
    texts = type_.variety == "atomic" and (
        type_.primitive in _DATES
        or type_.primitive == "base64Binary"
        or (type_.primitive == "string" and white_space(type_) == "preserve")
    )

    def checked_decode(text: str, at: etree._Element | None) -> Any:
        value = decode(text, at)
        for check in checks:
            check(value)
        return value

    def checked_encode(value: Any) -> str:
        text = encode(value)
        read: Any
        if type(value) is same:
            read = value
        elif texts:
            read = text
        else:
            read = QNAME.sub(r"\1", text) if "\x00" in text else decode(text, None)
        for check in checks:
            check(read)
        return text

    return Scalar(checked_decode, checked_encode)


def _matcher(type_: SimpleType) -> Callable[[str], Any] | None:
    """What texts of a type must match, None if there is no pattern."""
    groups = [[_pattern(p) for p in group] for group in type_.facets.patterns]
    if not groups:
        return None
    if len(groups) == 1 and len(groups[0]) == 1:
        return groups[0][0]
    return lambda text: all(any(match(text) for match in group) for group in groups)


def normal_space(text: str, how: str) -> str:
    """Text with its white space as a type has it."""
    if how == "collapse":
        return _SPACE.sub(" ", text).strip(" ")
    return _SPACE_ONE.sub(" ", text) if how == "replace" else text


def _checks(type_: SimpleType, decode: Decode) -> list[Callable[[Any], None]]:
    facets = type_.facets
    checks: list[Callable[[Any], None]] = []
    if facets.enumeration:
        checks.append(_enumeration(facets, type_, decode))
    measure = _measure(type_)
    if measure is not None:
        low, high, exact = facets.min_length, facets.max_length, facets.length
        if low is not None or high is not None or exact is not None:
            checks.append(_length(measure, low, high, exact))
    if type_.variety == "atomic":
        if facets.total_digits is not None or facets.fraction_digits is not None:
            checks.append(_digits(facets))
        checks += _bounds(type_, decode)
    return checks


def _enumeration(facets: Facets, type_: SimpleType, decode: Decode) -> Callable[[Any], None]:
    allowed = []
    for lexical in facets.enumeration:
        if type_.primitive in ("QName", "NOTATION"):
            allowed.append(lexical)
            continue
        try:
            allowed.append(decode(lexical, None))
        except ValueError:
            allowed.append(lexical)
    shown = ", ".join(str(a) for a in allowed[:12]) + (", ..." if len(allowed) > 12 else "")
    try:
        fast: Any = frozenset(allowed)
    except TypeError:
        fast = allowed

    def check(value: Any) -> None:
        try:
            found = value in fast
        except TypeError:
            found = value in allowed
        if not found:
            raise ValueError(f"must be one of {shown}; not '{_short(str(value))}'")

    return check


def _measure(type_: SimpleType) -> Callable[[Any], int] | None:
    if type_.primitive == "base64Binary":
        return lambda value: len(binascii.a2b_base64(value))
    if type_.primitive == "hexBinary":
        return lambda value: len(value) // 2
    if type_.variety == "list" or (
        type_.primitive not in RANGES
        and type_.primitive not in _DATES
        and type_.primitive not in ("boolean", "decimal", "float", "double", "QName", "union")
    ):
        return len
    return None


def _length(
    measure: Callable[[Any], int], low: int | None, high: int | None, exact: int | None
) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        length = measure(value)
        if exact is not None and length != exact:
            raise ValueError(f"must have a length of {exact}, not {length}")
        if low is not None and length < low:
            raise ValueError(f"must have a length of at least {low}, not {length}")
        if high is not None and length > high:
            raise ValueError(f"must have a length of at most {high}, not {length}")

    return check


def _digits(facets: Facets) -> Callable[[Any], None]:
    places_most, digits_most = facets.fraction_digits, facets.total_digits

    def check(value: Any) -> None:
        text = str(value)  # the quickest way to know how long a number is
        if "E" not in text:
            whole, _, fraction = text.lstrip("-").partition(".")
            if (places_most is None or len(fraction) <= places_most) and (
                digits_most is None or len(whole.lstrip("0")) + len(fraction) <= digits_most
            ):
                return
        _, digits, exponent = Decimal(value).normalize(_EXACT).as_tuple()
        places = max(0, -int(exponent))
        total = max(len(digits) + max(0, int(exponent)), places)
        if facets.fraction_digits is not None and places > facets.fraction_digits:
            raise ValueError(f"must have at most {facets.fraction_digits} decimal places")
        if facets.total_digits is not None and total > facets.total_digits:
            raise ValueError(f"must have at most {facets.total_digits} digits")

    return check


def _exact_context() -> Any:
    from decimal import Context

    return Context(prec=10000)


_EXACT: Final = _exact_context()
_ORDERED: Final = frozenset({*RANGES, "decimal", "float", "double"})


def _bounds(type_: SimpleType, decode: Decode) -> list[Callable[[Any], None]]:
    facets = type_.facets
    checks: list[Callable[[Any], None]] = []
    said = (
        (facets.min_inclusive, "must not be less than", operator.ge),
        (facets.max_inclusive, "must not be greater than", operator.le),
        (facets.min_exclusive, "must be greater than", operator.gt),
        (facets.max_exclusive, "must be less than", operator.lt),
    )
    for lexical, words, compare in said:
        if lexical is None:
            continue
        key = _number if type_.primitive in _ORDERED else order_key(type_.primitive)
        if key is None:
            continue
        try:
            bound = key(decode(lexical, None))
        except (ValueError, InvalidOperation):
            continue
        if bound is not None and type_.primitive in RANGES:
            checks.append(_int_bound(bound[1], f"{words} {lexical}", compare))
        elif bound is not None:
            checks.append(_bound(key, bound, f"{words} {lexical}", compare))
    return checks


def _int_bound(
    bound: int, words: str, compare: Callable[[Any, Any], bool]
) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        # A pattern may keep a number text, for its zeros.
        if not compare(int(value), bound):
            raise ValueError(words)

    return check


def _bound(
    key: Callable[[Any], Any], bound: Any, words: str, compare: Callable[[Any, Any], bool]
) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        own = key(value)
        # Values that cannot be compared (one has a time zone, one has none) are let pass.
        if own is None or own[0] != bound[0]:
            return
        if not compare(own[1], bound[1]):
            raise ValueError(words)

    return check


def _number(value: Any) -> tuple[bool, Any] | None:
    if isinstance(value, str):
        value = _SPECIAL.get(value)
    return None if value is None else (True, value)


def order_key(primitive: str) -> Callable[[Any], tuple[bool, Any] | None] | None:
    """What orders dates and times: whether there is a time zone, and the instant."""
    if primitive not in ("dateTime", "date", "time", "gYear", "gYearMonth"):
        return None

    def key(text: str) -> tuple[bool, Any] | None:
        match = _DATES[primitive].match(text)
        if match is None:
            return None
        groups = match.groups()
        zone = groups[-1]
        year = month = day = 1
        seconds = Decimal(0)
        if primitive != "time":
            year = int(groups[0])
        if primitive in ("dateTime", "date", "gYearMonth"):
            month = int(groups[1])
        if primitive in ("dateTime", "date"):
            day = int(groups[2])
        if primitive in ("dateTime", "time"):
            clock = groups[3:7] if primitive == "dateTime" else groups[:4]
            if clock[0] is None:
                seconds = Decimal(86400)
            else:
                whole = int(clock[0]) * 3600 + int(clock[1]) * 60 + int(clock[2])
                seconds = Decimal(f"{whole}.{clock[3] or 0}")
        cycles, within = divmod(year, 400)
        days = _days(within + 400, month, day) + cycles * 146097
        instant = Decimal(days) * 86400 + seconds
        if zone and zone != "Z":
            offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
            instant -= offset if zone[0] == "+" else -offset
        return zone is not None, instant

    return key


def _days(year: int, month: int, day: int) -> int:
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400
    return days + sum(calendar.monthrange(year, m)[1] for m in range(1, month)) + day


# --- patterns ------------------------------------------------------------------------------------

_NESTED: Final = re.compile(r"\)(?:[*+]|\{\d+,)")


@functools.lru_cache(4096)
def _pattern(pattern: str) -> Callable[[str], Any]:
    # Python backtracks, libxml2 does not: patterns that can blow up are left to libxml2.
    if not _NESTED.search(pattern) and len(pattern) < 2000:
        try:
            return compiled(pattern).matches
        except BadPattern:
            pass  # written for some other engine; libxml2 has the last word
    return _libxml2_pattern(pattern)


def _libxml2_pattern(pattern: str) -> Callable[[str], Any]:
    x = f"{{{XSD}}}"
    root = etree.Element(x + "schema", nsmap={"x": XSD})
    node = etree.SubElement(root, x + "element", name="v")
    node = etree.SubElement(node, x + "simpleType")
    node = etree.SubElement(node, x + "restriction", base="x:string")
    etree.SubElement(node, x + "pattern", value=pattern)
    try:
        schema = etree.XMLSchema(root)
    except etree.XMLSchemaParseError:
        return lambda text: True  # no pattern of XML Schema: nothing can be said

    def match(text: str) -> bool:
        element = etree.Element("v")
        element.text = text
        return bool(schema.validate(element))

    return match


def kind(value: Any) -> str:
    """What a value is, in words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, str):
        return f"the string '{_short(value)}'"
    if isinstance(value, int) and not -_MOST < value < _MOST:
        return "a number of more than 4000 digits"
    if isinstance(value, int | float | Decimal):
        return f"the number {_short(str(value))}"
    return f"a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


EXAMPLES: Final = {
    "dateTime": "2026-11-24T09:30:00Z",
    "dateTimeStamp": "2026-11-24T09:30:00Z",
    "date": "2026-11-24",
    "time": "09:30:00",
    "gYearMonth": "2026-11",
    "gYear": "2026",
    "gMonthDay": "--11-24",
    "gDay": "---24",
    "gMonth": "--11",
    "duration": "P1DT12H",
    "dayTimeDuration": "P1DT12H",
    "yearMonthDuration": "P1Y6M",
}
"""A value of each type of dates and times."""
