"""What `esb check` says of a slip, and the table that counts it."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from esb.config import load
from esb.errors import Diagnostic
from mutants.files import FileSlips
from mutants.slips import Slip, Slips

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "routes", "transforms")


@dataclass(frozen=True)
class Verdict:
    """found: whether anything was reported; placed: whether at one of the right lines; alone:
    whether nothing but that was. crashed: what the check died of, which is as bad as not found."""

    file: str
    slip: Slip
    found: bool
    placed: bool
    alone: bool
    said: tuple[Diagnostic, ...]
    crashed: str = ""


class Judge:
    """A copy of the project's route files, in which one at a time is made wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            shutil.copytree(PROJECT / name, folder / name)

    def route_files(self) -> list[Path]:
        """The files that slips are made in, relative to the project."""
        found = [*self.folder.glob("examples/*/routes.yaml"), *self.folder.glob("routes/*.yaml")]
        routes = [path for path in found if not path.stem.endswith(".test")]
        return sorted(path.relative_to(self.folder) for path in routes)

    def used_files(self) -> list[tuple[Path, str]]:
        """Files that routes use, each with the route file in which its slips are looked for."""
        found: list[tuple[Path, str]] = []
        for file in self.route_files():
            text = (self.folder / file).read_text()
            for name in re.findall(r"[\w./-]+\.(?:schema\.json|j2|wsdl)\b", text):
                for folder in (self.folder / file.parent, self.folder / "transforms"):
                    if (folder / name).is_file():
                        used = (folder / name).resolve().relative_to(self.folder.resolve())
                        if all(str(used) != other for _, other in found):
                            found.append((file, str(used)))
        return found

    def slips(self, seed: int) -> Iterator[tuple[Path, Slip]]:
        """Every slip, with the route file in which it is looked for. Raises ValueError if that is
        wrong before."""
        for file in self.route_files():
            if said := self.said(file):
                raise ValueError(f"{file} is wrong as it is: {[str(one) for one in said]}")
            text = (self.folder / file).read_text()
            for slip in Slips(text, random.Random(seed)).all():
                yield file, slip
        for file, used in self.used_files():
            text = (self.folder / used).read_text()
            for slip in FileSlips(used, text, random.Random(seed)).all():
                yield file, slip

    def said(self, file: Path) -> tuple[Diagnostic, ...]:
        """What the check says of the project that `file` is part of."""
        whole = self.folder / (file.parts[0] if file.parts[0] == "routes" else file.parent)
        project = load([whole], environ={}, root=self.folder)
        return (*project.diagnostics, *project.warnings)

    def judge(self, file: Path, slip: Slip) -> Verdict:
        """Make the slip in `file`, or in the one that it names, and see what is said."""
        wrong = self.folder / (slip.file or file)
        right = wrong.read_text()
        wrong.write_text(slip.text)
        try:
            said = self.said(file)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is to be counted
            return Verdict(str(file), slip, False, False, False, (), repr(e))
        finally:
            wrong.write_text(right)
        here = [one for one in said if Path(one.file).resolve() == wrong.resolve()]
        at = [one for one in here if one.line in slip.lines]
        if slip.file:
            # A tool may also name the line of a file where the file is used.
            lines = "|".join(map(str, slip.lines))
            at += [one for one in said if re.search(rf"(line |:)({lines})\b", one.message)]
        return Verdict(str(file), slip, bool(said), bool(at), len(at) == len(said) > 0, said)


@dataclass
class Count:
    """How many slips, and what became of them."""

    slips: int = 0
    found: int = 0
    placed: int = 0
    alone: int = 0

    def add(self, verdict: Verdict) -> None:
        """One more."""
        self.slips += 1
        self.found += verdict.found
        self.placed += verdict.placed
        self.alone += verdict.alone


def counted(verdicts: Iterable[Verdict]) -> dict[str, Count]:
    """The counts by class of slip, those of all under "all"."""
    counts: dict[str, Count] = {}
    whole = Count()
    for verdict in verdicts:
        counts.setdefault(verdict.slip.kind, Count()).add(verdict)
        whole.add(verdict)
    return {**dict(sorted(counts.items())), "all": whole}


def table(counts: Mapping[str, Count]) -> Iterator[str]:
    """The counts as a table in Markdown."""
    yield "| slip | made | found | at its line | nothing else said |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for kind, count in counts.items():
        cells = [count.found, count.placed, count.alone]
        shown = " | ".join(f"{cell} ({cell / count.slips:.1%})" for cell in cells)
        yield f"| {kind} | {count.slips} | {shown} |"
