"""The short form of `make mutants`: some slips of each class, found and told where they are."""

from __future__ import annotations

import random
from pathlib import Path

from mutants.judge import Judge, counted
from mutants.slips import Slip, Slips

EACH = 12
"""So many slips of a class."""


def test_slips_in_route_files_are_found_and_placed(tmp_path: Path) -> None:
    judge = Judge(tmp_path)
    by_kind: dict[str, list[tuple[Path, Slip]]] = {}
    for file in judge.route_files():
        slips = Slips((judge.folder / file).read_text(), random.Random(7), times=1)
        for slip in slips.all():
            by_kind.setdefault(slip.kind, []).append((file, slip))
    chance = random.Random(7)
    chosen = [one for some in by_kind.values() for one in chance.sample(some, min(EACH, len(some)))]
    verdicts = [judge.judge(file, slip) for file, slip in chosen]
    counts = counted(verdicts)
    missed = [(v.file, v.slip.kind, v.slip.what, v.said) for v in verdicts if not v.placed]
    assert [v for v in verdicts if v.crashed] == []
    assert counts["all"].slips > 120
    assert counts["all"].found >= 0.95 * counts["all"].slips, missed
    assert counts["all"].placed >= 0.90 * counts["all"].slips, missed


def test_what_is_right_is_no_slip(tmp_path: Path) -> None:
    judge = Judge(tmp_path)
    assert {str(file): judge.said(file) for file in judge.route_files()} == {
        str(file): () for file in judge.route_files()
    }
    assert len(judge.route_files()) >= 11
