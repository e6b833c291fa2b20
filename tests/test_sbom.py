"""What is said to be in it, and what may not be."""

from __future__ import annotations

import json
import tomllib

import pytest
import sbom


def test_everything_a_user_may_install_is_listed() -> None:
    listed = {
        one["name"]: one["version"] for one in json.loads(sbom.SBOM.read_text())["components"]
    }
    lock = tomllib.loads((sbom.PROJECT / "uv.lock").read_text())["package"]
    locked = {one["name"]: one.get("version") for one in lock}
    [bus] = [one for one in lock if one["name"] == "esb"]
    wanted = [*bus["dependencies"]]
    for extra in bus["optional-dependencies"].values():
        wanted += extra
    assert {one["name"] for one in wanted} <= listed.keys()
    assert {name: locked[name] for name in listed} == listed
    assert "pytest" not in listed


@pytest.mark.parametrize("name", ["libfaketime", "suds-community", "no-such-package"])
def test_a_licence_that_binds_others_is_refused(name: str) -> None:
    with pytest.raises(sbom.Unfit, match=name):
        sbom.licence(name)


def test_each_row_of_the_page_has_a_licence() -> None:
    rows = [line for line in sbom.PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(json.loads(sbom.SBOM.read_text())["components"])
    assert all(row.split(" | ")[1].strip() for row in rows)
