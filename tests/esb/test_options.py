"""Units in YAML: what is accepted, what it means, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from esb.auth.certificates import MtlsOptions
from esb.auth.keys import ApiKey
from esb.auth.passwords import User
from esb.auth.tokens import JwtOptions
from esb.auth.webhooks import HmacOptions
from esb.middleware.authorize import Allow
from esb.middleware.cache import CacheOptions
from esb.options import Backoff, Duration, Options, Range, Size
from esb.settings import AdminOptions


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


@pytest.mark.parametrize(
    ("model", "written", "name"),
    [
        (Allow, {"roles": "clerk"}, "roles"),
        (Allow, {"scopes": "clerk"}, "scopes"),
        (Allow, {"principals": "clerk"}, "principals"),
        (Allow, {"roles": "r", "operations": "clerk"}, "operations"),
        (ApiKey, {"name": "a", "sha256": "0" * 64, "roles": "clerk"}, "roles"),
        (ApiKey, {"name": "a", "sha256": "0" * 64, "scopes": "clerk"}, "scopes"),
        (User, {"name": "a", "password": "$argon2id$", "roles": "clerk"}, "roles"),
        (User, {"name": "a", "password": "$argon2id$", "scopes": "clerk"}, "scopes"),
        (HmacOptions, {"secret": "long enough", "roles": "clerk"}, "roles"),
        (MtlsOptions, {"names": "clerk"}, "names"),
        (JwtOptions, {"issuer": "https://a", "audience": "b", "types": "clerk"}, "types"),
        (AdminOptions, {"readers": "clerk"}, "readers"),
        (AdminOptions, {"operators": "clerk"}, "operators"),
        (CacheOptions, {"ttl": "1m", "vary": "clerk"}, "vary"),
    ],
)
def test_one_word_stands_for_a_list_of_one(
    model: type[Options], written: dict[str, Any], name: str
) -> None:
    assert getattr(model.model_validate(written), name) == ["clerk"]


def test_roles_of_names_may_be_one_each() -> None:
    found = MtlsOptions.model_validate({"roles": {"a": "clerk"}, "scopes": {"a": ["x", "y"]}})
    assert (found.roles, found.scopes) == ({"a": ["clerk"]}, {"a": ["x", "y"]})
    with pytest.raises(ValidationError):
        MtlsOptions.model_validate({"roles": {"a": 1}})
