"""Where the products lie that the bench measures beside the bus, and how each is got there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

FILES = Path(__file__).resolve().parent / "files"
"""A folder for each product: its configuration, and the versions that are fetched."""

STORE = Path(__file__).resolve().parents[2] / ".tools" / "peers"


class CannotFetch(Exception):
    """A product cannot be had here; the text says why."""


class Installed:
    """A product's folder under .tools/peers. Its name tells what it was made from, so that other
    versions make another one.

    name: of the product and of its folder in FILES. made_from: the files there that say what is
    fetched and built. tools: the programs that this takes, with the Debian package of each. make:
    puts everything into the empty folder it is given.
    """

    def __init__(
        self,
        name: str,
        made_from: Sequence[str],
        tools: dict[str, str],
        make: Callable[[Path], None],
    ) -> None:
        self.name = name
        self.files = FILES / name
        self._tools = tools
        self._make = make
        told = hashlib.sha256()
        for one in made_from:
            told.update((self.files / one).read_bytes())
        self.folder = STORE / f"bench-{name}-{told.hexdigest()[:12]}"

    def missing(self) -> str:
        """How to get it; "" if it is there."""
        return "" if self.folder.is_dir() else f".venv/bin/python bench/peers/fetch.py {self.name}"

    def fetch(self) -> None:
        """Make the folder if it is not there; all of it, or nothing. Raises CannotFetch."""
        if self.folder.is_dir():
            return
        if lacking := [package for tool, package in self._tools.items() if not shutil.which(tool)]:
            raise CannotFetch(f"apt-get install {' '.join(lacking)}")
        STORE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STORE) as made:
            folder = Path(made) / "new"
            folder.mkdir()
            self._make(folder)
            folder.rename(self.folder)


def run(*command: str | Path, cwd: Path | None = None, **environ: str) -> None:
    """Run a command. Raises CannotFetch, with the end of what it said, if it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **environ}, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise CannotFetch(f"{command[0]}: {(done.stdout + done.stderr).strip()[-1500:]}")
