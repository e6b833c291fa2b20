"""Units in YAML: what is accepted, what it means, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from esb.options import Backoff, Duration, Options, Range, Size


class Example(Options):
    timeout: Duration = 5.0
    limit: Size = 1024
    backoff: Backoff = Range(first=1, longest=60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("1d", 86400),
     (" 5 s ", 5), ("0s", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert Example(timeout=text).timeout == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["5", 5, "s", "-5s", "5 sec", "1h30m", "", None, True, [], "5S"])
def test_a_duration_without_its_unit_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="a number with its unit"):
        Example(timeout=value)


@pytest.mark.parametrize(
    ("value", "size"),
    [("512", 512), (512, 512), ("64KB", 65536), ("64 kb", 65536), ("5MB", 5 * 1024**2),
     ("1GB", 1024**3), ("7b", 7), (0, 0)],
)  # fmt: skip
def test_sizes(value: Any, size: int) -> None:
    assert Example(limit=value).limit == size


@pytest.mark.parametrize("value", ["5XB", "-5", -5, "1.5MB", True, None, "", [], 1.5])
def test_what_is_no_size_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="a size is a number of bytes"):
        Example(limit=value)


def test_backoffs() -> None:
    assert Example(backoff="1s..60s").backoff == Range(first=1, longest=60)  # type: ignore[arg-type]
    assert Example(backoff="500ms").backoff == Range(first=0.5, longest=0.5)  # type: ignore[arg-type]
    for value, message in (
        ("60s..1s", "from the shorter to the longer"),
        ("1..60", "number with its unit"),
        ("1s..", "number with its unit"),
    ):
        with pytest.raises(ValidationError, match=message):
            Example(backoff=value)  # type: ignore[arg-type]


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_a_delay_grows_and_stays_within_its_range(attempt: int, chance: float) -> None:
    backoff = Range(first=1, longest=60)
    delay = backoff.delay(attempt, lambda: chance)
    assert 0 <= delay <= 60
    assert delay <= backoff.delay(attempt + 1, lambda: chance)


def test_options_refuse_what_they_do_not_know_and_never_change() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Example(timeuot="5s")  # type: ignore[call-arg]
    example = Example()
    with pytest.raises(ValidationError, match="frozen"):
        example.timeout = 6.0  # type: ignore[misc]


def test_what_editors_are_told() -> None:
    properties = TypeAdapter(Example).json_schema()["properties"]
    assert properties["timeout"]["type"] == "string"
    assert properties["limit"]["type"] == ["integer", "string"]
    assert properties["backoff"]["examples"] == ["1s..60s"]
