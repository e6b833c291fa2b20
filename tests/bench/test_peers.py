"""Other products as contestants: what can be told without having them. Nothing is fetched here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

PROJECT = Path(__file__).parents[2]
BENCH = PROJECT / "bench"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, imported as bench/run.py does; its names are nobody else's afterwards."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    import peers

    yield peers
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(BENCH)):
            del sys.modules[name]


def test_each_kind_of_a_peer_has_what_its_command_names(peers: Any, tmp_path: Path) -> None:
    from measure import Bus, Place
    from processes import Cores
    from scenarios import all_scenarios

    place = Place(Cores(0, 0), tmp_path, 9, "amqp://guest:guest@localhost/")
    for peer in peers.all_peers():
        assert set(peer.kinds) <= set(Bus.kinds)
        for scenario in all_scenarios():
            if scenario.kind in peer.kinds:
                command, environ = peer.command(scenario, 8, place)
                told = [one for one in (*command, *environ.values()) if one.startswith(str(BENCH))]
                assert told, "it runs something of ours"
                assert all(Path(one).exists() for one in told)


def test_configurations_are_well_formed(peers: Any) -> None:
    files = BENCH / "peers" / "files"
    routes = [yaml.safe_load(file.read_text()) for file in files.glob("camel/*.yaml")]
    assert routes
    assert all(isinstance(route["route"]["from"]["steps"], list) for (route,) in routes)
    streams = [yaml.safe_load(file.read_text()) for file in files.glob("benthos/*.yaml")]
    assert streams
    assert all({"input", "pipeline", "output"} <= set(stream) for stream in streams)
    pom = etree.parse(files / "camel" / "pom.xml")
    versions = pom.findall(".//{*}dependency/{*}version")
    assert len(versions) == len(pom.findall(".//{*}dependency")), "each is pinned"
    pins = (files / "python" / "requirements.txt").read_text().splitlines()
    assert all("==" in pin for pin in pins)


def test_a_product_is_there_whole_or_not_at_all(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peers import installed

    monkeypatch.setattr(installed, "FILES", tmp_path / "files")
    monkeypatch.setattr(installed, "STORE", tmp_path / "store")
    pins = tmp_path / "files" / "some" / "pins"
    pins.parent.mkdir(parents=True)
    pins.write_text("1.0")

    def half(folder: Path) -> None:
        (folder / "one").write_text("1")
        installed.run(sys.executable, "-c", "raise SystemExit('no such version')")

    broken = installed.Installed("some", ("pins",), {}, half)
    with pytest.raises(installed.CannotFetch, match="no such version"):
        broken.fetch()
    assert broken.missing() == ".venv/bin/python bench/peers/fetch.py some"
    assert not list((tmp_path / "store").iterdir())

    whole = installed.Installed("some", ("pins",), {}, lambda into: (into / "one").touch())
    whole.fetch()
    assert whole.missing() == ""
    assert [file.name for file in whole.folder.iterdir()] == ["one"]

    pins.write_text("1.1")
    newer = installed.Installed("some", ("pins",), {"no-such-tool": "its-package"}, half)
    assert newer.missing() != "", "another version is another product"
    with pytest.raises(installed.CannotFetch, match="apt-get install its-package"):
        newer.fetch()


def test_fetch_names_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "peers" / "fetch.py", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == "no such product: nothing; there is camel, benthos, node, python\n"
