"""What the pages say is so: their YAML loads, their links lead somewhere, their commands exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import typer
from support.bus import load_text

from esb.cli import app
from esb.config import load
from esb.testing.suite import Suite

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "bench/*.md", "adapters/*.md")
    for path in PROJECT.glob(pattern)
)
README = (PROJECT / "README.md").read_text()


def shown(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            found = (page.parent / target).resolve()
            assert found.exists(), target


def test_the_routes_in_the_readme_load(tmp_path: Path) -> None:
    (tmp_path / "wsdl").mkdir()
    shutil.copy(PROJECT / "examples/legacy/partner.wsdl", tmp_path / "wsdl")
    (tmp_path / "order.schema.json").write_text("{}")
    (tmp_path / "order.json.j2").write_text('{"number": {{ body.number | tojson }}}')
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    tests = [block for block in blocks if block.startswith("tests:")]
    assert (len(blocks), len(tests)) == (3, 1)
    for block in blocks:
        if block not in tests:
            assert load_text(block, tmp_path).diagnostics == []
    (tmp_path / "orders.yaml").write_text(blocks[0])
    (tmp_path / "orders.test.yaml").write_text(tests[0])
    suite = Suite(tmp_path / "orders.test.yaml", root=tmp_path)
    for case in suite.tests.values():
        assert suite.run(case).failures == []


def test_the_routes_on_the_page_about_delivery_load(tmp_path: Path) -> None:
    page = (PROJECT / "docs/delivery.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert load_text(block, tmp_path).diagnostics == []


def test_the_routes_on_the_page_about_secrets_load(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "secrets.md").read_text()
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        load([file], environ=None, root=tmp_path).check()


def test_the_make_targets_that_are_told_of_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    told = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^    )make (\w+)", page.read_text(), re.M)
    }
    assert {"run", "test", "bench"} <= told
    for name in told:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_the_commands_that_are_told_of_exist_and_each_is_told_of() -> None:
    group = typer.main.get_command(app)
    commands = set(group.list_commands(typer.Context(group)))  # type: ignore[attr-defined]
    told = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^    (?:\$ )?)esb ([a-z]+)\b", page.read_text(), re.MULTILINE)
    }
    assert told <= commands
    table = "\n".join(re.findall(r"^\| (`esb .*?) \|", README, re.MULTILINE))
    assert set(re.findall(r"`esb ([a-z]+)", table)) == commands
