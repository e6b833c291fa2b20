"""Python modules of a project, as routes use them: found by file, and never importable by others.

A folder of modules is loaded as a package with a name of its own, so that nothing of it can hide,
or be hidden by, what is installed. Its modules reach each other with relative imports. If a file of
the folder changes, a load makes another package of it: routes that run go on with the old one.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import sys
import weakref
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

_PREFIX: Final = "esb_project_"
_numbers: Final = itertools.count(1)


class Package:
    """The modules of a folder, loaded when asked for. They are forgotten with this object."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{_PREFIX}{next(_numbers)}"
        package = ModuleType(self.name)
        package.__path__ = [str(folder)]
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.append(_Finder())
        sys.modules[self.name] = package
        weakref.finalize(self, _forget, self.name)

    def module(self, name: str) -> ModuleType:
        """The module `name` ("prices", "crm.customers"). Raises whatever importing it raises."""
        return importlib.import_module(f"{self.name}.{name}")

    @staticmethod
    def state(folder: Path) -> tuple[tuple[str, int, int], ...]:
        """What is different after a change of any file of the folder."""
        files = sorted(p for p in folder.rglob("*.py") if p.is_file())
        stats = [(str(path), path.stat()) for path in files]
        return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def _forget(name: str) -> None:
    for module in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
        del sys.modules[module]


class _Finder(MetaPathFinder):
    """Finds the modules of our packages, and only those."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        for folder in path or ():
            # Made anew each time: it would remember what was in the folder.
            if spec := FileFinder(folder, (_Source, [".py"])).find_spec(fullname):
                return spec
        return None


class _Source(SourceFileLoader):
    """Compiles the source as it is now, and leaves nothing beside it: the time of a compiled file
    has whole seconds only."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code
