"""What is wrong with routes although each of their parts is right: asked of their outlines.

A file here is a question. What cannot go well is an error; what most likely is a slip, but would
run, is a warning. Nothing is asked that the outline cannot answer for sure: where the body of a
message, or who else reads a queue, is not known, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from esb.analysis import branches, channels, faults, fields, rounds, targets
from esb.analysis.findings import Findings
from esb.errors import Diagnostic
from esb.outline import Part


def analyse(outlines: Sequence[Part], *, whole: bool = True) -> list[Diagnostic]:
    """Errors and warnings about routes. whole: whether these are all there are, so that what no
    route does can be told."""
    found = Findings()
    for outline in outlines:
        branches.check(outline, found)
        fields.check(outline, found)
        faults.check(outline, found)
        targets.check(outline, found)
    if whole:
        rounds.check(outlines, found)
        channels.check(outlines, found)
    return found.sorted()
