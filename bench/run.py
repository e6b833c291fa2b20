#!/usr/bin/env python3
"""Measures the main uses beside nginx: what `make bench` runs. See README.md beside this file.

bench/run.py                      all, several rounds: about ten minutes
bench/run.py --quick              the same once, a second each: for a look whether it works
bench/run.py -s direct-500 -s ... some scenarios only
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import codec
import machine
import nginx
import report
import store
from measure import Bus, Contestant, Figures, Place, Proxy, Settings, backend_alone, measure
from processes import BenchFailed, Cores, Process, choose_cores, free_port, running, until
from scenarios import Scenario, all_scenarios

BENCH = Path(__file__).resolve().parent
PROJECT = BENCH.parent
WORK = PROJECT / ".tools"
"""On a disk, as data are: a /tmp in memory would make every fsync free."""

FULL = Settings(rounds=5, seconds=4, warm_up=1, connections=50, messages=20_000)
QUICK = Settings(rounds=1, seconds=1, warm_up=0, connections=50, messages=1_000)
NEEDED = {"nginx": "nginx-light", "wrk": "wrk", "taskset": "util-linux"}
CONTESTANTS: list[Contestant] = [Bus(), Proxy()]
"""Others that pass messages on belong here: see `Contestant`."""
ALONE: dict[str, Callable[..., list[dict[str, Any]]]] = {"store": store.run, "codec": codec.run}
"""Parts that are measured by themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    scenarios = {scenario.name: scenario for scenario in all_scenarios()}
    parser = argparse.ArgumentParser(description="Measure the bus beside nginx.")
    parser.add_argument("--quick", action="store_true", help="once and short; no figures to quote")
    parser.add_argument("-s", "--scenario", action="append", choices=[*scenarios, *ALONE])
    parser.add_argument("-r", "--rounds", type=int, help=f"instead of {FULL.rounds}")
    parser.add_argument("-o", "--out", type=Path, help="where results go, instead of bench/results")
    given = parser.parse_args(argv)
    if lacking := [p for n, p in NEEDED.items() if not shutil.which(n, path=_path())]:
        print(f"missing: apt-get install {' '.join(lacking)}", file=sys.stderr)
        return 2
    settings = QUICK if given.quick else FULL
    if given.rounds:
        settings = Settings(**{**asdict(settings), "rounds": given.rounds})
    names = given.scenario or [*scenarios, *ALONE]
    # A run of a part, or a short one, must not take the place of a full one's results.
    partial = given.quick or given.scenario
    out = given.out or (WORK / "bench-results" if partial else BENCH / "results")
    try:
        cores = choose_cores()
        chosen = [scenarios[name] for name in names if name not in ALONE]
        result = run(chosen, settings, cores, given.quick)
        for name in (name for name in ALONE if name in names):
            say(f"{name} ...")
            os.sched_setaffinity(0, {cores.measured})
            result[name] = ALONE[name](quick=given.quick)
    except BenchFailed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "latest.svg").write_text(report.plot(result))
    page = report.page(result)
    (out / "latest.md").write_text(page)
    print(page)
    say(f"written to {os.path.relpath(out)}/latest.{{md,svg,json}}")
    return 0


def run(
    scenarios: Sequence[Scenario], settings: Settings, cores: Cores, quick: bool
) -> dict[str, Any]:
    """All contestants in all scenarios, in turns, round by round, so that what changes on the
    machine meanwhile hits all alike. Raises BenchFailed."""
    os.sched_setaffinity(0, {cores.load})  # what is started from here on inherits it
    rounds: dict[str, dict[str, list[Figures]]] = {
        s.name: {"backend": [], **{c.name: [] for c in CONTESTANTS}} for s in scenarios
    }
    with tempfile.TemporaryDirectory(prefix="bench-", dir=WORK) as folder, ExitStack() as stack:
        broker = ""
        if any(scenario.uses_broker for scenario in scenarios):
            broker = stack.enter_context(_broker(Path(folder)))
        for number in range(settings.rounds):
            for scenario in scenarios:
                with _place(scenario, Path(folder), cores, broker) as place:
                    found = backend_alone(scenario, settings, place)
                    rounds[scenario.name]["backend"].append(found)
                # Who goes first changes, in case that is of any use.
                turn = number % len(CONTESTANTS)
                for contestant in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
                    with _place(scenario, Path(folder), cores, broker) as place:
                        found = measure(contestant, scenario, settings, place)
                    rounds[scenario.name][contestant.name].append(found)
                    say(
                        f"round {number + 1}/{settings.rounds} {scenario.name} {contestant.name}: "
                        f"{found.rate:,.0f}/s"
                    )
    return {
        "made": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "settings": asdict(settings),
        "machine": {**machine.kind(), "one_core_for_all": cores.shared},
        "versions": machine.versions(),
        "scenarios": [
            {"name": s.name, "title": s.title, "way": s.way, "uses_broker": s.uses_broker}
            | summary(rounds[s.name])
            for s in scenarios
        ],
    }


def summary(rounds: dict[str, list[Figures]]) -> dict[str, Any]:
    """Medians by contestant; and the ratios to nginx, each the median of the rounds' ratios."""
    medians = {name: _each(found, median) for name, found in rounds.items()}
    ratios = {
        name: _each(
            [
                Figures(**_over(asdict(one), asdict(other)))
                for one, other in zip(found, rounds["nginx"], strict=True)
            ],
            median,
        )
        for name, found in rounds.items()
        if name != "nginx"
    }
    rates = {name: [round(one.rate, 1) for one in found] for name, found in rounds.items()}
    return {"medians": medians, "to_nginx": ratios, "rates": rates}


def _over(one: dict[str, float | None], other: dict[str, float | None]) -> dict[str, Any]:
    return {key: value / other[key] if value and other[key] else None for key, value in one.items()}  # type: ignore[operator]


def _each(found: Sequence[Figures], reduce: Callable[[list[float]], float]) -> dict[str, float]:
    columns = {key: [asdict(one)[key] for one in found] for key in asdict(found[0])}
    return {
        key: round(reduce(column), 4)
        for key, column in columns.items()
        if all(value is not None for value in column)
    }


@contextmanager
def _place(scenario: Scenario, folder: Path, cores: Cores, broker: str) -> Iterator[Place]:
    """A backend and a folder for one measurement."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        port = free_port()
        command = nginx.write_backend(Path(name) / "backend", port, scenario.answers)
        with running(Process(command, cores.load, Path(name) / "backend.txt")) as process:
            delivered = nginx.Counter(port)

            def answers() -> bool:
                process.alive()
                try:
                    return delivered() >= 0
                except OSError:
                    return False

            until(answers, "the backend answers")
            yield Place(cores, Path(name), port, delivered, broker)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    sys.path.insert(0, str(PROJECT / "tools"))
    from rabbitmq import Broker, BrokerFailed, CannotInstall

    say("RabbitMQ ...")
    try:
        with Broker(folder / "rabbitmq") as broker:
            yield broker.url
    except (BrokerFailed, CannotInstall) as e:
        raise BenchFailed(str(e)) from e


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def say(what: str) -> None:
    """Tell how far it is."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
