"""What every option model is made of: the strict base class and the spelled-out units.

Duration   "500ms", "5s", "2m", "1h", "1d" -> seconds (float)
Size       "512", "64KB", "5MB", "1GB"     -> bytes (int; units of 1024)
Backoff    "1s", "1s..60s"                 -> Range(first, longest)
Name       "orders-2"                      -> str
Words      "clerk", [clerk, boss]          -> list of str
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from random import random
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)


class Misplaced(ValueError):
    """What options are wrong together, raised by a validator of the model: told at the one of them
    that lies at `at`."""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class Options(BaseModel):
    """Base of every model that a YAML mapping fills: unknown keys are errors, values immutable.

    `shorthand` names the field that a bare value fills, so that `filter: body.x > 1` may stand for
    `filter: {when: body.x > 1}`. `live` names the fields of a section that a reload may change.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # what was given may be a secret
    )
    __shorthand__ = ""
    __live__: ClassVar[tuple[str, ...]] = ()


class Range(BaseModel):
    """A pair of durations in seconds."""

    model_config = ConfigDict(frozen=True)
    first: float
    longest: float

    def delay(self, attempt: int, random: Callable[[], float] = random) -> float:
        """Seconds to wait after try number `attempt` (from 1) failed: exponential with full
        jitter, so that many who failed together don't come back together.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        doublings = min(attempt - 1, 64)
        return min(self.longest, self.first * 2.0**doublings) * random()


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}


def parse_duration(value: Any) -> float:
    """Seconds from "5s" or the like. Raises ValueError with the spelling that would do."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())
        if found:
            return float(found[1]) * _UNITS[found[2]]
    raise ValueError("a duration is a number with its unit: 500ms, 5s, 2m, 1h or 1d")


def _duration(value: Any, info: ValidationInfo) -> float:
    # From Python a float is seconds; in YAML it is a number that lacks its unit.
    in_yaml = info.context is not None
    return value if isinstance(value, float) and not in_yaml else parse_duration(value)


def parse_size(value: Any) -> int:
    """Bytes from "5MB" or the like. Raises ValueError with the spelling that would do."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)\s*(b|kb|mb|gb|)", value.strip().lower())
        if found:
            return int(found[1]) * _SIZES[found[2]]
    raise ValueError("a size is a number of bytes or has a unit: 64KB, 5MB, 1GB")


def spelled_size(count: int) -> str:
    """A number of bytes as people read it: "1.5 GB"."""
    for unit, size in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} bytes"


def spelled_time(seconds: float) -> str:
    """A time as people read it: "1.5 ms"."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def parse_backoff(value: Any) -> Range:
    """A range from "1s..60s"; a single duration is a constant backoff."""
    if isinstance(value, Range):
        return value
    first, dots, longest = str(value).partition("..")
    low = parse_duration(first)
    high = parse_duration(longest) if dots else low
    if high < low:
        raise ValueError("a backoff goes from the shorter to the longer: 1s..60s")
    return Range(first=low, longest=high)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(
            "a name has letters, digits, '.', '_' and '-', at most 100, a letter or digit first"
        )
    return value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {"type": ["integer", "string"], "minimum": 0, "pattern": r"^\d+\s*([kmgKMG]?[bB])?$"}
    ),
]
Name = Annotated[
    str,
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "pattern": "^" + NAME.pattern + "$"}),
]
Words = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""One may stand without a list."""

Auth = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]
"""Who may call: names of the section `auth`, any of which will do, or `public`."""

Backoff = Annotated[
    Range,
    BeforeValidator(parse_backoff),
    WithJsonSchema({"type": "string", "examples": ["1s..60s"]}),
]


def secrets_of(value: Any) -> Iterator[str]:
    """The secrets in a model, or in whatever a model holds."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for _, one in value:
            yield from secrets_of(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from secrets_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from secrets_of(one)


def unknown(what: str, word: str, names: Iterable[str]) -> ValueError:
    """The error about a word that is none of `names`: it says the nearest, or all if none is."""
    names = list(names)
    close = difflib.get_close_matches(word.lower(), names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}"
    return ValueError(f"there is no {what} '{word}': {hint}")


def error_name(names: Collection[str]) -> Callable[[Any], Any]:
    """The check of what names an error: its code, one of `names`, or the HTTP status of an answer.
    See `esb.errors.one_of`."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in names:
            return value
        if type(value) is int and 300 <= value <= 599:
            return value
        if isinstance(value, str):
            raise unknown("error", value, names)
        raise ValueError(f"an error is a status from 300 to 599 or one of: {', '.join(names)}")

    return check


def error_name_schema(names: Collection[str]) -> dict[str, Any]:
    """The JSON Schema of the same."""
    return {"anyOf": [{"enum": [*names]}, {"type": "integer", "minimum": 300, "maximum": 599}]}


# Raw parts: validated by the step or adapter they name, which only the loader knows. `x-esb` says
# which definition of the whole schema stands there; pydantic knows no `$ref` that is not its own.
RawSteps = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"x-esb": "step"}})]
RawSink = Annotated[Any, WithJsonSchema({"x-esb": "sink"})]
RawCaller = Annotated[Any, WithJsonSchema({"x-esb": "caller"})]
RawRoute = Annotated[Any, WithJsonSchema({"x-esb": "route"})]
RawSource = Annotated[Any, WithJsonSchema({"x-esb": "source"})]
