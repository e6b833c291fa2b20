"""Which tracestate is passed on, as W3C Trace Context says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.tracecontext import tracestate

LONG = "long=" + "x" * 140


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([], ""),
        (["a=1"], "a=1"),
        (["a=1 , \tb=2", "", "c@d=x=y"], ""),  # a value has no "="
        (["a=1 , \tb=2", "", "t/1*_-@d=x y"], "a=1,b=2,t/1*_-@d=x y"),
        ([",,a=1,,"], "a=1"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a="], ""),
        (["a=\x7f"], ""),
        (["a=1\r\nx: y"], ""),
        (["a=1\0"], ""),
        (["a=ü"], ""),
        (["a@b@c=1"], ""),
        (["a@" + "b" * 15 + "=1"], ""),
        ([f"{'k' * 256}=1"], f"{'k' * 256}=1"),
        ([f"{'k' * 257}=1"], ""),
        ([f"k={'v' * 256}"], f"k={'v' * 256}"),
        ([f"k={'v' * 257}"], ""),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
        ([7, b"a=1", None], ""),
        (["x" * 10**6], ""),
    ],
)
def test_what_is_passed_on(values: list[object], kept: str) -> None:
    assert tracestate(values) == kept


def test_where_there_is_no_room_for_all_long_ones_go_first_and_then_the_last() -> None:
    short = [f"k{n}={'v' * 40}" for n in range(11)]
    assert tracestate([",".join([LONG, *short])]) == ",".join(short)
    assert tracestate([",".join([*short, "z=" + "v" * 100])]) == ",".join(short)


@given(st.lists(st.text(max_size=700), max_size=40))
def test_what_is_passed_on_is_passed_on_again_as_it_is(values: list[str]) -> None:
    kept = tracestate(values)
    assert len(kept) <= 512
    assert tracestate([kept]) == kept
