"""What is built is what is here: folders, the wheel's list and the entry points name the same.

The tests marked `packaging` build the wheel and run it outside of the checkout; .ci/run calls them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from setup import fetch_uv, find_uv
from support.processes import Process, free_ports, request

PROJECT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
NOT_SHIPPED = ("adapters", "routes", "transforms", "tests", "examples", "tools", "bench")

FOLDERS = {path.parent.name for path in (PROJECT / "adapters").glob("*/__init__.py")}
ADAPTERS = FOLDERS - {"esb_web"}  # what http and soap stand on, no adapter


def test_the_wheel_lists_every_adapter() -> None:
    listed = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(listed) == sorted(["esb", *(f"adapters/{name}" for name in FOLDERS)])


def test_every_adapter_has_its_entry_point() -> None:
    points = PYPROJECT["project"]["entry-points"]["esb.adapters"]
    # A package may have more than the one of its name.
    assert {re.split("[.:]", point)[0] for point in points.values()} == ADAPTERS
    assert {f"esb_{name}" for name in points} >= ADAPTERS


def test_sections_and_commands_are_those_of_adapters() -> None:
    for group in ("esb.sections", "esb.commands"):
        for point in PYPROJECT["project"]["entry-points"][group].values():
            assert re.split("[.:]", point)[0] in FOLDERS


def test_types_and_import_contracts_cover_every_package() -> None:
    everything = {"esb", *FOLDERS}
    assert set(PYPROJECT["tool"]["mypy"]["packages"]) == everything
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == everything
    for contract in PYPROJECT["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "independence":
            assert set(contract["modules"]) == ADAPTERS


def test_every_package_says_that_it_is_typed() -> None:
    packages = [PROJECT / "esb", *(PROJECT / "adapters" / name for name in FOLDERS)]
    assert all((package / "py.typed").is_file() for package in packages)


# --- the wheel -----------------------------------------------------------------------------------


def _uv(*arguments: str | Path) -> None:
    uv = find_uv() or fetch_uv()
    subprocess.run([uv, "--quiet", *arguments], cwd=PROJECT, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _uv("build", "--wheel", "--out-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clean environment with the wheel and what its metadata asks for, at the locked versions."""
    folder = tmp_path_factory.mktemp("clean")
    locked = folder / "constraints.txt"
    _uv("export", "--frozen", "--no-emit-project", "--no-hashes", "--output-file", locked)
    _uv("venv", folder / "venv")
    _uv("pip", "install", "--python", folder / "venv", "--constraints", locked, wheel)
    yield folder / "venv"
    shutil.rmtree(folder)


@pytest.mark.packaging
def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"esb", *FOLDERS}
    for package in ("esb", *FOLDERS):
        assert f"{package}/py.typed" in names
    here = {
        path.relative_to(PROJECT / root).as_posix()
        for root, package in [("", "esb"), *(("adapters", name) for name in FOLDERS)]
        for path in (PROJECT / root / package).rglob("*.py")
    }
    assert here <= set(names)


@pytest.mark.packaging
@pytest.mark.timeout(300)
def test_nothing_else_gets_into_site_packages(installed: Path) -> None:
    (site,) = installed.glob("lib/python3*/site-packages")
    names = {path.name for path in site.iterdir()}
    assert not names & set(NOT_SHIPPED)
    assert {name for name in names if re.fullmatch(r"esb(_\w+)?", name)} == {"esb", *FOLDERS}


ROUTES = """
listen: {port: 0000}
admin: {port: 1111}
expose:
  partners: {wsdl: partner.wsdl, at: /partners, operations: {getPartner: GET /:id}}
routes:
  hello:
    from: {http: {path: /hello/:name, method: GET}}
    steps:
      - transform:
          jinja: |
            {"message": {{ ("Hello, " ~ path.name) | tojson }}}
          content_type: application/json
  in:
    from: {http: /in}
    steps: [{send: {queue: waiting}}]
  out:
    from: {queue: waiting}
    steps: [{send: {amqp: {queue: orders}}}]
"""


@pytest.mark.packaging
@pytest.mark.timeout(300)
def test_a_route_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    project = tmp_path / "project"
    (project / "routes").mkdir(parents=True)
    shutil.copy(PROJECT / "examples/legacy/partner.wsdl", project / "routes")
    text = ROUTES.replace("0000", str(port)).replace("1111", str(admin))
    (project / "routes" / "all.yaml").write_text(text)
    esb = installed / "bin" / "esb"
    with Process([esb, "run"], cwd=project) as bus:
        bus.wait_for(f"http://127.0.0.1:{admin}/readyz")
        url = f"http://127.0.0.1:{port}"
        assert request("GET", f"{url}/hello/wheel").json == {"message": "Hello, wheel"}
        assert request("GET", f"{url}/partners/openapi.json").status == 200
        assert request("POST", f"{url}/in", {"any": "thing"}).status == 202
        assert bus.stop() == 0
