"""Sends what is hostile, judges what comes of it, and tells."""

from __future__ import annotations

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hostile.arena import Answer, Arena, Seen
from hostile.case import Case

MOST_LAG: Final = 0.1
"""Seconds in which one input may keep the event loop from everything else."""

MOST_MEMORY: Final = 256 * 1024**2
"""Bytes that one input may have the process hold beyond what it holds when idle."""

_INSIDE: Final = (b"root:x:0", b"Traceback", b"site-packages", b'.py"', b"lxml.", b"msgspec")
_SENDERS: Final = re.compile(
    r"Client|Sender|MustUnderstand|VersionMismatch|DataEncodingUnknown|Only|Invalid|Missing|Action"
    r"|Authentication|Expired|Unsupported|MessageAddressing"
)
_FAULT: Final = re.compile(
    rb"<faultcode[^>]*>(?:\w+:)?([\w.]+)</faultcode>"
    rb"|<(?:\w+:)?Code><(?:\w+:)?Value>(?:\w+:)?(\w+)</(?:\w+:)?Value>"
)


@dataclass
class Result:
    """How one case went. problems: what must not be; none of it, and the bus stood it."""

    family: str
    name: str
    transport: str
    status: int
    code: str
    lag_ms: float
    memory_mb: float
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


async def run(
    arena: Arena,
    cases: Iterable[Case],
    *,
    most_lag: float = MOST_LAG,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """All cases, one after the other. Ends early when the bus is gone."""
    found: list[Result] = []
    await _warm(arena)
    for case in cases:
        result = Result(case.family, case.name, case.transport, 0, "", 0, 0)
        found.append(result)
        begun = now()
        try:
            seen = await arena.attack(case)
        except Exception as e:  # noqa: BLE001 - whatever it is, the others are still to be sent
            result.problems.append(f"{type(e).__name__}: {e}")
            seen = None
        result.seconds = round(now() - begun, 2)
        if not arena.alive:
            result.problems.append(f"the bus has ended: {arena.process.output[-500:]}")
        elif seen is not None:
            _judge(arena, case, seen, result, most_lag)
        tell(result)
        if not arena.alive:
            break
    return found


async def _warm(arena: Arena) -> None:
    """Load what is loaded with the first request: that is no work of one input."""
    from hostile.corpus import warming

    for case in warming():
        await arena.attack(case)
    arena.rest()


def _judge(arena: Arena, case: Case, seen: Seen, result: Result, most_lag: float) -> None:
    answer, problems = seen.answer, result.problems
    result.status, result.code = answer.status, code_of(answer)
    result.lag_ms = round(seen.lag * 1000, 1)
    result.memory_mb = round((seen.memory - arena.idle) / 1024**2, 1)
    if answer.status not in case.statuses:
        problems.append(f"{answer.status} came, not one of {case.statuses}: {answer.body[:200]!r}")
    elif case.code and not re.search(case.code, result.code):
        problems.append(f"the code is {result.code}, not {case.code}: {answer.body[:200]!r}")
    if answer.status == 500 and not _SENDERS.search(result.code):
        problems.append("a 500 that blames the bus")
    for what in (*_INSIDE, arena.token.encode()):
        if what in answer.body or what in answer.head:
            problems.append(f"the answer holds {what!r}")
        if any(what in request for request in seen.forwarded):
            problems.append(f"the backend got {what!r}")
    if any(b"<!DOCTYPE" in request for request in seen.forwarded):
        problems.append("the backend got a DOCTYPE")
    out = b"\n".join((answer.head, answer.body, *seen.forwarded))
    if case.holds and not re.search(case.holds, out):
        problems.append(f"{case.holds!r} is not in what comes out: {out[:300]!r}")
    if case.lacks and (found := re.search(case.lacks, out)):
        problems.append(f"what comes out has {found[0]!r}")
    if seen.asked:
        problems.append(f"the canary was asked {seen.asked} times")
    if not seen.good:
        problems.append("a good request beside it was not answered")
    if seen.lag > most_lag:
        problems.append(f"the event loop was kept for {result.lag_ms} ms")
    if seen.memory - arena.idle > MOST_MEMORY:
        problems.append(f"the process held {result.memory_mb} MB more")


def code_of(answer: Answer) -> str:
    """The code in problem+json, of a SOAP fault or of a dead letter."""
    if answer.body.startswith(b"{"):
        try:
            members: Any = json.loads(answer.body)
        except ValueError:
            return ""
        return str(members.get("code") or members.get("type", "")).rpartition(":")[2]
    found = _FAULT.search(answer.body)
    return (found[1] or found[2]).decode() if found else ""


# --- telling --------------------------------------------------------------------------------------


def summary(results: Sequence[Result]) -> list[list[str]]:
    """The table: one row a family, and their sum."""
    rows = [["family", "inputs", "stood", "answers", "longest block ms", "most memory MB"]]
    families = dict.fromkeys(one.family for one in results)
    for family in [*families, ""]:
        own = [one for one in results if family in ("", one.family)]
        if not own:
            continue
        answers = Counter(str(one.status or "closed") for one in own)
        rows.append([
            family or "all", str(len(own)), str(sum(not one.problems for one in own)),
            ", ".join(f"{n} x {status}" for status, n in answers.most_common(4)),
            f"{max(one.lag_ms for one in own):.0f}", f"{max(one.memory_mb for one in own):.0f}",
        ])  # fmt: skip
    return rows


def save(results: Sequence[Result], folder: Path, when: str, seconds: float) -> None:
    """Write hostile.md, and each input to hostile.json, which is too large to be kept in git."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    told = {"when": when, "machine": machine, "inputs": [asdict(one) for one in results]}
    (folder / "hostile.json").write_text(json.dumps(told, indent=1) + "\n")
    rows = summary(results)
    lines = [
        "# Hostile input", "",
        f"{len(results)} inputs on {when} in {seconds:.0f} s ({machine}), by `make hostile`; what "
        "each is and what counts is in `tests/hostile/`. `stood`: refused as expected, no error of "
        "the bus, nothing read or asked that must not be, and the next good request answered. "
        "`longest block` is the work done by the process while its event loop looked after nothing "
        "else; `most memory` is what it held at its peak beyond what it holds when idle.", "",
    ]  # fmt: skip
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(-len(rows) + 1, "| --- | --: | --: | --- | --: | --: |")
    bad = [one for one in results if one.problems]
    lines += ["", *(f"* {one.family}, {one.name}: {'; '.join(one.problems)}" for one in bad)]
    (folder / "hostile.md").write_text("\n".join(lines).rstrip() + "\n")


def now() -> float:
    """Seconds, to tell how long it took."""
    return time.monotonic()
