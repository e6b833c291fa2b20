#!/usr/bin/env python3
"""Fetches the other products of the bench into .tools/peers/, each with its own package manager, at
the versions that lie in files/: `fetch.py` all of them, `fetch.py NAME...` some."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import products
from peers.installed import CannotFetch


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 if something could not be had, 2 for a name that there is none of."""
    known = {product.name: product for product in products()}
    names = list(sys.argv[1:] if argv is None else argv) or list(known)
    if unknown := [name for name in names if name not in known]:
        print(f"no such product: {', '.join(unknown)}; there is {', '.join(known)}")
        return 2
    failed = 0
    for name in names:
        try:
            known[name].fetch()
            print(f"{name}: {known[name].folder}")
        except CannotFetch as e:
            failed = 1
            print(f"{name}: {e}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
