"""Other products as contestants, one module each: see README.md beside this file."""

from __future__ import annotations

from measure import Contestant


def all_peers() -> list[Contestant]:
    """All of them, installed or not."""
    return []
