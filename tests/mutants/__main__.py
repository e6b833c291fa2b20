"""Makes slips in all route files and counts which `esb check` finds: what `make mutants` runs."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mutants.files import FileSlips
from mutants.judge import Judge, Verdict, counted, table
from mutants.slips import Slips


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every slip; the exit status says whether enough was found."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--missed", action="store_true", help="show what was missed or misplaced")
    parser.add_argument("--noisy", action="store_true", help="show where more was said")
    parser.add_argument("-k", "--kind", help="only this class")
    parser.add_argument("-o", "--out", type=Path, help="a file for the table")
    given = parser.parse_args(argv)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        for file in judge.route_files():
            if said := judge.said(file):
                sys.exit(f"{file} is wrong as it is: {[str(one) for one in said]}")
            slips = Slips((judge.folder / file).read_text(), random.Random(given.seed))
            for slip in slips.all():
                if given.kind in (None, slip.kind):
                    verdicts.append(judge.judge(file, slip))
        for file, used in judge.used_files():
            text = (judge.folder / used).read_text()
            for slip in FileSlips(used, text, random.Random(given.seed)).all():
                if given.kind in (None, slip.kind):
                    verdicts.append(judge.judge(file, slip))
    for verdict in verdicts:
        if (given.missed and not verdict.placed) or (given.noisy and not verdict.alone):
            show(verdict)
    lines = list(table(counted(verdicts)))
    print("\n".join(lines))
    if given.out:
        when = datetime.now(UTC).date().isoformat()
        given.out.write_text(REPORT.format(when=when, table="\n".join(lines)))
    whole = counted(verdicts)["all"]
    return 0 if whole.found >= 0.95 * whole.slips and whole.placed >= 0.9 * whole.slips else 1


def show(verdict: Verdict) -> None:
    """A slip that was missed, for people who mend the check."""
    slip = verdict.slip
    state = "misplaced" if verdict.found else "MISSED"
    if verdict.placed:
        state = "noisy"
    print(f"{state}: {verdict.file} {slip.file} {sorted(slip.lines)} {slip.kind}: {slip.what}")
    if verdict.crashed:
        print(f"    CRASHED: {verdict.crashed}")
    for one in verdict.said:
        print(f"    {one.line}:{one.column} {one.code}: {one.message} ({one.hint})")


REPORT = "{when}\n\n{table}\n"

if __name__ == "__main__":
    sys.exit(main())
