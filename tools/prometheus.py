"""Prometheus and its promtool, from Debian's package, unpacked as `servers.py` does it."""

from __future__ import annotations

import shutil
from pathlib import Path

from servers import TOOLS, Apt, unpack

UNPACKED = TOOLS / "prometheus"


def install(program: str = "promtool") -> Path:
    """`promtool` or `prometheus`, unpacked when missing; one that the system has is used as it is.

    Quick when it is there; safe to call from several processes at once. Raises CannotInstall.
    """
    if not _complete(UNPACKED):
        if on_path := shutil.which(program):
            return Path(on_path)
        unpack(UNPACKED, "Prometheus (50 MB)", _packages, _complete)
    return UNPACKED / "usr/bin" / program


def _complete(root: Path) -> bool:
    return (root / "usr/bin/promtool").exists()


def _packages(apt: Apt) -> set[str]:
    return {"prometheus"}  # programs in Go need no libraries
