"""docs/soap.md: its route files load, and its tables name the codes that there are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import trustme
from support.bus import load_text
from support.peers import PARTNER_WSDL

from esb_soap import addressing, security

PAGE = (Path(__file__).parents[2] / "docs" / "soap.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PARTNER_WSDL, tmp_path)
    ca = trustme.CA()
    mine = ca.issue_cert("bus.example")
    ca.cert_pem.write_to_path(tmp_path / "partner-ca.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "bus.pem")
    mine.private_key_pem.write_to_path(tmp_path / "bus.key")
    (tmp_path / "secrets").mkdir()
    for name in ("partner", "bob"):
        (tmp_path / "secrets" / name).write_text("s3cret")
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS)
def test_the_routes_load(block: str, folder: Path) -> None:
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", block), "s3cret")
    assert load_text(block, folder, environ=environ).diagnostics == []


def test_there_are_some() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize(("prefix", "module"), [("wsse", security), ("wsa", addressing)])
def test_the_codes_are_those_that_are_raised(prefix: str, module: object) -> None:
    source = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    _, _, table = PAGE.partition(f"| what is wrong | code (`{prefix}:`) |\n| --- | --- |\n")
    told = set(re.findall(r"[A-Z]\w{3,}", " ".join(
        line.split("|")[2] for line in table.partition("\n\n")[0].splitlines()
    )))  # fmt: skip
    raised = set(
        re.findall(
            r'"((?:Invalid|Failed|Message|Missing|Unsupported|Action|Only)[A-Za-z]+)"', source
        )
    )
    old = {"InvalidMessageInformationHeader", "MessageInformationHeaderRequired"}
    assert raised - old - {"MessageID", "Action"} == told
