"""The fuzzing of `hostile.fuzz`, in short; and that it would see what breaks."""

from __future__ import annotations

import pytest
from hostile.fuzz import Target, attempt, fuzz, targets

from esb.errors import BadMessage

TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_nothing_breaks(target: Target) -> None:
    for seed in target.seeds:
        outcome, broken = attempt(target, seed)
        assert not broken, (seed, broken)
        assert outcome.startswith("ok"), (seed, outcome)
    found = fuzz(target, tries=100)
    assert found.broken == []
    assert found.tried == 100
    assert found.kept > 1


def test_what_breaks_is_seen() -> None:
    def fragile(raw: bytes) -> None:
        if b"((" in raw:
            raise IndexError(raw)
        while raw == b"hang":
            pass
        raise BadMessage("no")

    target = Target("fragile", fragile, [b"()"], [b"(", b")"])
    ((raw, how),) = fuzz(target, tries=40).broken
    assert b"((" in raw
    assert "IndexError" in how
    assert attempt(target, b"hang") == ("hang", "more than 1 s")
