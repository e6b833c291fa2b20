"""The command line of the fault suite: what `make faults` runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from faults.catalogue import catalogue
from faults.places import ENGINES, PLACES
from faults.suite import HEAD, Result, line, row, run, save, tidy

PROJECT = Path(__file__).resolve().parents[2]
WORK = PROJECT / ".tools" / "faults"
"""On a disk, as data are: a /tmp in memory would make every fsync free."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the faults that were asked for; the exit status."""
    faults = {fault.name: fault for fault in catalogue()}
    parser = argparse.ArgumentParser(prog="make faults", description="Make things fail.")
    parser.add_argument("-f", "--fault", action="append", choices=[*faults], metavar="NAME")
    parser.add_argument("--rounds", type=int, help="instead of each fault's own number")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all chance")
    parser.add_argument("--store", action="append", choices=[*PLACES])
    parser.add_argument("--engine", action="append", choices=[*ENGINES])
    parser.add_argument("-o", "--out", type=Path, help="where results go, beside those of others")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--keep", action="store_true", help="keep stores and ledgers")
    given = parser.parse_args(argv)
    if given.list:
        for fault in faults.values():
            print(f"{fault.name:20} {fault.about}")
        return 0
    when = datetime.now(UTC).date().isoformat()
    # A short run must not take the place of the whole.
    out = given.out or (WORK if given.rounds else PROJECT / "bench/results")
    print(f"seed {given.seed}")
    print(line(HEAD))
    results: list[Result] = []
    for name in given.fault or faults:
        fault = faults[name]
        for store in given.store or [one for one in PLACES if one in fault.places]:
            for engine in given.engine or [one for one in ENGINES if one in fault.engines]:
                folder = WORK / f"{name}-{store}-{engine}"
                tidy(folder)
                rounds = given.rounds or fault.rounds
                result = asyncio.run(
                    run(fault, store, engine, rounds=rounds, seed=given.seed, folder=folder)
                )
                results.append(result)
                save([result], out, when, list(faults))  # at once: a run may be cut off
                print(line(row(result)), flush=True)
                if result.memory_mb:
                    print(f"    memory in MB: {result.memory_mb}")
                for problem in result.problems:
                    print(f"    {problem}", flush=True)
                if result.good and not given.keep:
                    tidy(folder)
    bad = [result for result in results if not result.good]
    print(f"{len(results) - len(bad)} of {len(results)} as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
