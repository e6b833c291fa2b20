"""The command line of the corpus: what `make hostile` runs."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hostile.arena import Arena
from hostile.corpus import corpus
from hostile.sabotage import SABOTAGE
from hostile.suite import Result, now, run, save, summary

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Send what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="make hostile", description="Attack a bus.")
    parser.add_argument("-k", "--only", default="", help="a pattern of 'family: name'")
    parser.add_argument(
        "--sabotage", choices=[*SABOTAGE], default="-", help="of a bus to be caught"
    )
    parser.add_argument("-o", "--out", type=Path, help="where results go")
    parser.add_argument("-v", "--verbose", action="store_true", help="each input")
    given = parser.parse_args(argv)
    cases = [one for one in corpus() if re.search(given.only, f"{one.family}: {one.name}")]

    def tell(result: Result) -> None:
        if given.verbose or result.problems:
            line = f"{result.family}: {result.name}"
            print(f"{line:70} {result.status:4} {result.code:22} {result.lag_ms:7} ms "
                  f"{result.memory_mb:7} MB {result.seconds:6} s", flush=True)  # fmt: skip
        for problem in result.problems:
            print(f"    {problem}", flush=True)

    async def all_of_it() -> list[Result]:
        with tempfile.TemporaryDirectory() as folder:
            async with Arena(Path(folder), sabotage=given.sabotage) as arena:
                return await run(arena, cases, tell=tell)

    begun = now()
    results = asyncio.run(all_of_it())
    seconds = now() - begun
    widths = (18, 6, 6, 50, 17, 15)
    for row in summary(results):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    bad = sum(bool(one.problems) for one in results)
    print(f"{len(results) - bad} of {len(results)} stood, in {seconds:.0f} s")
    out = given.out or (RESULTS if not given.only and given.sabotage == "-" else None)
    if out:
        save(results, out, datetime.now(UTC).date().isoformat(), seconds)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
