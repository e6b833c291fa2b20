"""The tests beside the examples' routes, and beside those of the bus that runs when it is cloned:
each step of each runs in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.examples import PROJECT
from typer.testing import CliRunner

from esb.cli import app


@pytest.mark.parametrize("folder", ["examples", "routes"])
def test_they_pass_and_leave_out_no_step(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    junit = tmp_path / "junit.xml"
    arguments = ["test", folder, "--junit", str(junit), "--coverage", "--min-coverage", "100"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert junit.read_text().count("<testcase") > 0


def test_each_example_has_some() -> None:
    routes = [file.parent for file in (PROJECT / "examples").glob("*/routes.yaml")]
    assert [folder.name for folder in routes if not (folder / "routes.test.yaml").is_file()] == []
