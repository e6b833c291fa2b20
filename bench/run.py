#!/usr/bin/env python3
"""Measures the bus beside nginx and beside other products: what `make bench` runs. README.md beside
this file says how, and what the figures mean.

bench/run.py                      all, several rounds: about half an hour
bench/run.py --quick              the main ones once, a second each: for a look whether it works
bench/run.py -s direct-500 -s ... some scenarios only; -c esb -c camel: some contestants only
bench/run.py --sweep              DirectProxy with 20 to 2,560 connections
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import interpreter

if __name__ == "__main__" and "--quick" not in sys.argv:
    interpreter.run_again_under_the_fastest()  # before anything is imported under this one

import codec
import machine
import plot
import report
import store
from measure import Bus, Contestant, Figures, Place, Proxy, Settings, backend_alone, measure
from peers import all_peers
from processes import BenchFailed, Cores, choose_cores, free_port
from scenarios import SELDOM, Scenario, all_scenarios

BENCH = Path(__file__).resolve().parent
PROJECT = BENCH.parent
WORK = PROJECT / ".tools"
"""On a disk, as data are: a /tmp in memory would make every fsync free."""

FULL = Settings(rounds=3, seconds=4, warm_up=1, connections=50, messages=20_000)
QUICK = Settings(rounds=1, seconds=1, warm_up=0, connections=50, messages=1_000)
SWEEP = (20, 80, 320, 1280, 2560)
SWEPT = ("direct-500",)
NEEDED = {"nginx": "nginx-light", "wrk": "wrk", "taskset": "util-linux", "openssl": "openssl"}
ALONE: dict[str, Callable[..., list[dict[str, Any]]]] = {"store": store.run, "codec": codec.run}
"""Parts that are measured by themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    scenarios = {scenario.name: scenario for scenario in all_scenarios()}
    contestants = {one.name: one for one in [Bus(), Proxy(), *all_peers()]}
    parser = argparse.ArgumentParser(description="Measure the bus beside nginx and others.")
    parser.add_argument("--quick", action="store_true", help="once and short; no figures to quote")
    parser.add_argument("-s", "--scenario", action="append", choices=[*scenarios, *ALONE, "sweep"])
    parser.add_argument("-c", "--contestant", action="append", choices=list(contestants),
                        help="beside nginx; all that are installed if left out")  # fmt: skip
    parser.add_argument("--peers-each-round", action="store_true",
                        help="others take part in every round, not in the first alone")  # fmt: skip
    parser.add_argument("-r", "--rounds", type=int, help=f"instead of {FULL.rounds}")
    parser.add_argument("--seconds", type=int, help=f"of load, instead of {FULL.seconds}")
    parser.add_argument("-o", "--out", type=Path, help="where results go, instead of bench/results")
    given = parser.parse_args(argv)
    if lacking := [p for n, p in NEEDED.items() if not shutil.which(n, path=_path())]:
        print(f"missing: apt-get install {' '.join(lacking)}", file=sys.stderr)
        return 2
    settings = QUICK if given.quick else FULL
    if given.rounds:
        settings = replace(settings, rounds=given.rounds)
    if given.seconds:
        settings = replace(settings, seconds=given.seconds)
    taking_part = []
    for one in contestants.values():
        if one.name in (given.contestant or contestants) or isinstance(one, Proxy):
            if lack := one.missing():
                say(f"without {one.name}: {lack}")
            else:
                taking_part.append(one)
    names = given.scenario or [*scenarios, *ALONE, "sweep"]
    if given.quick and not given.scenario:
        names = [name for name in names if name not in SELDOM and name != "sweep"]
    # A run of a part, or a short one, must not take the place of a full one's results.
    partial = given.quick or given.scenario or given.contestant
    out = given.out or (WORK / "bench-results" if partial else BENCH / "results")
    try:
        cores = choose_cores()
        chosen = [scenarios[name] for name in names if name in scenarios]
        result = run(
            chosen, taking_part, settings, cores, given.quick, often=given.peers_each_round
        )
        if "sweep" in names:
            swept = [scenarios[name] for name in SWEPT]
            result["sweep"] = sweep(swept, taking_part, settings, cores)
        for name in (name for name in ALONE if name in names):
            say(f"{name} ...")
            os.sched_setaffinity(0, {cores.measured})
            result[name] = ALONE[name](quick=given.quick)
    except BenchFailed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    write(result, out)
    print((out / "latest.md").read_text())
    say(f"written to {os.path.relpath(out)}/latest.{{md,svg,json}}")
    return 0


def write(result: dict[str, Any], out: Path) -> None:
    """The results as a page, plots and JSON."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "latest.svg").write_text(plot.plot(result))
    (out / "latest.md").write_text(report.page(result))


def run(
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    settings: Settings,
    cores: Cores,
    quick: bool,
    often: bool = False,
) -> dict[str, Any]:
    """All contestants in all scenarios, in turns, round by round, so that what changes on the
    machine meanwhile hits all alike. Raises BenchFailed.

    often: peers, which take most of the time to warm up, take part in each round and not in the
    first alone. In the sizes that are seldom measured they never do.
    """
    rounds: dict[str, dict[str, list[Figures]]] = {
        s.name: {"backend": []}
        | {
            c.name: []
            for c in contestants
            if s.kind in c.kinds and (s.name not in SELDOM or isinstance(c, Bus | Proxy))
        }
        for s in scenarios
    }
    failed: dict[str, str] = {}
    with _workshop(scenarios, cores) as (folder, broker):
        for number in range(settings.rounds):
            for scenario in scenarios:
                if number and scenario.name in SELDOM:
                    continue
                with _place(folder, cores, broker) as place:
                    found = backend_alone(scenario, settings, place)
                    rounds[scenario.name]["backend"].append(found)
                who = [
                    c
                    for c in contestants
                    if c.name in rounds[scenario.name]
                    and (not number or often or isinstance(c, Bus | Proxy))
                ]
                # Who goes first changes, in case that is of any use.
                turn = number % len(who)
                for contestant in who[turn:] + who[:turn]:
                    key = f"{contestant.name} in {scenario.name}"
                    if key in failed:
                        continue
                    with _place(folder, cores, broker) as place:
                        try:
                            found = measure(contestant, scenario, settings, place)
                        except BenchFailed as e:
                            if isinstance(contestant, Bus | Proxy):
                                raise
                            # A peer that fails is told of, and the others go on.
                            failed[key] = str(e)
                            rounds[scenario.name].pop(contestant.name)
                            say(f"{key}: {e}")
                            continue
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
        "versions": machine.versions()
        | {one.name: one.version() for one in contestants if one.version()},
        "failed": failed,
        "scenarios": [
            {"name": s.name, "title": s.title, "kind": s.kind, "size": s.size, "way": s.way}
            | {"uses_broker": s.uses_broker}
            | summary(rounds[s.name])
            for s in scenarios
        ],
    }


def sweep(
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    settings: Settings,
    cores: Cores,
) -> list[dict[str, Any]]:
    """The same scenarios with few and with many connections, once. Raises BenchFailed."""
    found = []
    with _workshop(scenarios, cores) as (folder, broker):
        for scenario in scenarios:
            for connections in SWEEP:
                here = replace(settings, connections=connections)
                medians = {}
                for contestant in contestants:
                    if scenario.kind not in contestant.kinds:
                        continue
                    with _place(folder, cores, broker) as place:
                        try:
                            figures = measure(contestant, scenario, here, place)
                        except BenchFailed as e:
                            if isinstance(contestant, Bus | Proxy):
                                raise
                            say(f"{contestant.name} with {connections} connections: {e}")
                            continue
                    medians[contestant.name] = _each([figures], median)
                    say(
                        f"{scenario.name}, {connections} connections, {contestant.name}: "
                        f"{figures.rate:,.0f}/s"
                    )
                one = {"name": scenario.name, "title": scenario.title, "connections": connections}
                found.append({**one, "medians": medians})
    return found


def summary(rounds: dict[str, list[Figures]]) -> dict[str, Any]:
    """Medians by contestant; and the ratios to nginx, each the median of the rounds' ratios."""
    medians = {name: _each(found, median) for name, found in rounds.items()}
    ratios = {
        name: _each(
            [
                Figures(**_over(asdict(one), asdict(other)))
                for one, other in zip(found, rounds["nginx"], strict=False)
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
def _workshop(scenarios: Sequence[Scenario], cores: Cores) -> Iterator[tuple[Path, str]]:
    """A folder with a certificate in it, and a broker if one is needed; on the core of the load."""
    os.sched_setaffinity(0, {cores.load})  # what is started from here on inherits it
    with tempfile.TemporaryDirectory(prefix="bench-", dir=WORK) as name, ExitStack() as stack:
        folder = Path(name)
        _certificate(folder)
        broker = ""
        if any(scenario.uses_broker for scenario in scenarios):
            broker = stack.enter_context(_broker(folder))
        yield folder, broker


@contextmanager
def _place(folder: Path, cores: Cores, broker: str) -> Iterator[Place]:
    """A folder and a port for one measurement."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        certificate = (folder / "cert.pem", folder / "key.pem")
        yield Place(cores, Path(name), free_port(), broker, certificate)


def _certificate(folder: Path) -> None:
    """A certificate for 127.0.0.1 that nobody else trusts."""
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    sys.path.insert(0, str(PROJECT / "tools"))
    from rabbitmq import Broker, CannotInstall, ServerFailed

    say("RabbitMQ ...")
    try:
        with Broker(folder / "rabbitmq") as broker:
            yield broker.url
    except (ServerFailed, CannotInstall) as e:
        raise BenchFailed(str(e)) from e


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def say(what: str) -> None:
    """Tell how far it is."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
