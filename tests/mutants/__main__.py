"""Makes slips in all route files and counts which `esb check` finds: what `make mutants` runs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mutants.judge import Judge, Verdict, counted, table


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every slip; the exit status says whether enough was found."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--missed", action="store_true", help="show what was missed or misplaced")
    parser.add_argument("--noisy", action="store_true", help="show where more was said")
    parser.add_argument("-k", "--kind", help="only this class")
    parser.add_argument("-o", "--out", type=Path, help="a page for the tables")
    given = parser.parse_args(argv)
    routes: list[Verdict] = []
    files: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        for file, slip in judge.slips(given.seed):
            if given.kind in (None, slip.kind):
                verdict = judge.judge(file, slip)
                (files if slip.file else routes).append(verdict)
                if (given.missed and not verdict.placed) or (given.noisy and not verdict.alone):
                    show(verdict)
    told = ["\n".join(table(counted(each))) for each in (routes, files)]
    print("\n\n".join(told))
    if given.out:
        when = datetime.now(UTC).date().isoformat()
        given.out.write_text(REPORT.format(when=when, routes=told[0], files=told[1]))
    whole = counted(routes)["all"]
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


REPORT = """\
# Slips in route files, and whether `esb check` finds them

Made by `make mutants` on {when}, from the examples and `routes/`: each slip a user could make is
made alone, by machine ([how](../../tests/mutants/slips.py)), and `esb check` asked.

*Found*: an error or a warning is told. *At its line*: one of them names the line that was changed;
where a line is missing, the line that took its place or the key it was below; where a name was
changed that stands in several lines, any of these (which of them is wrong, nobody can know).
*Nothing else said*: and no other line is named.

{routes}

What is no mistake does not count: names and texts that are for users to choose (of routes, headers,
fields that `set` makes, descriptions), an option that may be left out, a value where any type may
stand (what `set` makes), a text where it is short for the options, one or a list of them where
either may stand, and whatever another YAML parser reads as the same data.

What is missed: a field of the body where no schema says which there are, and a quote at the end of
a text, which may be meant.

## In the files that routes use

The same for marks and words in JSON Schemas, templates and WSDLs. Much of this is found only by a
message: what a template writes is not known before, a WSDL may lack what it does not use (such an
operation is left out), and unknown keywords of a schema are legal.

{files}
"""

if __name__ == "__main__":
    sys.exit(main())
