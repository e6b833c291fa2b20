"""The pages rebuilt in examples/rebuilt/ do what they say, in as many lines as they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from support.examples import PROJECT

from esb.testing.suite import Suite

FOLDER: Final = PROJECT / "examples" / "rebuilt"
ROW: Final = re.compile(r"^\| \[([\w-]+)\]\(([\w-]+)\.yaml\) .*\| (\d+) \| (\d+) \|$", re.M)
ROWS: Final = {
    name: int(here) for name, _, _, here in ROW.findall((FOLDER / "README.md").read_text())
}
FILES: Final = sorted(
    path.stem for path in FOLDER.glob("*.yaml") if not path.name.endswith(".test.yaml")
)


def lines(path: Path) -> int:
    """Lines of routes, without comments and descriptions."""
    told = (line.strip() for line in path.read_text().splitlines())
    return sum(1 for line in told if line and not line.startswith(("#", "description:")))


def test_each_is_told_of_with_its_length() -> None:
    assert {name: lines(FOLDER / f"{name}.yaml") for name in FILES} == ROWS
    assert len(FILES) == 15


@pytest.mark.parametrize("name", FILES)
def test_it_does_what_it_says(name: str) -> None:
    suite = Suite(FOLDER / f"{name}.test.yaml", root=PROJECT)
    for case in suite.tests.values():
        assert [str(failure) for failure in suite.run(case).failures] == [], case.name
