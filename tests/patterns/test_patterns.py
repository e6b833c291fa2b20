"""Every example on the page of patterns is run by the tests that lie here under its name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
from support.examples import PROJECT

from esb.testing.suite import Suite

HERE: Final = Path(__file__).parent
PAGE: Final = (PROJECT / "docs" / "patterns.md").read_text()
SECTION: Final = re.compile(r"^### (.+?)\n(.*?)(?=^##|\Z)", re.M | re.S)
BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```", re.M | re.S)


def slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


SECTIONS: Final = {slug(title): text for title, text in SECTION.findall(PAGE)}
EXAMPLES: Final = {
    name: blocks[0] for name, text in SECTIONS.items() if (blocks := BLOCK.findall(text))
}


def test_every_pattern_has_an_example_and_every_example_a_test() -> None:
    assert SECTIONS.keys() - EXAMPLES.keys() == {"saga"}  # told under another name
    assert {path.name.removesuffix(".test.yaml") for path in HERE.glob("*.test.yaml")} == set(
        EXAMPLES
    )
    assert len(BLOCK.findall(PAGE)) == len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_does_what_the_pattern_says(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.yaml").write_text(EXAMPLES[name])
    shutil.copy(HERE / f"{name}.test.yaml", tmp_path)
    shutil.copytree(HERE / "python", tmp_path / "python")
    suite = Suite(tmp_path / f"{name}.test.yaml", root=tmp_path)
    assert suite.tests
    for test in suite.tests.values():
        assert [str(failure) for failure in suite.run(test).failures] == [], test.name
