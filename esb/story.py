"""The story of one message in plain words (EIP: Message History): from the traces that were kept,
the receipts, and where it lies now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from esb.control import find, moment
from esb.durable import Store
from esb.errors import EsbError
from esb.graph import target
from esb.options import spelled_size, spelled_time
from esb.outline import Part
from esb.route import Route
from esb.traces import Snapshot, Trace, TraceStore, Visit

MOST_TRACES: Final = 200
MOST_OTHERS: Final = 20

_ENDS: Final = {
    "message": "was through",
    "reply": "was through{}: a reply is its answer",
    "accepted": "was through{}: whoever it was sent to has taken it",
    "filtered": "was filtered{}: it ended here on purpose",
    "dead": "was given up{} and went to the dead letters",
}
"""How a run ended, by its outcome; in the braces stands how long it took."""


async def story(
    text: str, store: Store | None, traces: TraceStore, routes: Mapping[str, Route]
) -> dict[str, Any]:
    """What is known of the messages whose id, business key or correlation id is `text`.

    events: what happened, in the order of time; of a run that was traced with what each step did
    (`steps`). now: where what is left of it lies, as `esb.control.find` tells. related: ids of
    other messages that belong to it. hints: how to know more.
    """
    found = await _traces(traces, text)
    ids = {text, *(one.id for one in found)}
    known = [entry for one in sorted(ids)[:MOST_OTHERS] for entry in await _found(store, one)]
    lying = {entry["key"]: entry for entry in known if "finished" not in entry}
    now = list(lying.values())
    parts = {
        (name, part.place): part for name, route in routes.items() for part in route.outline.walk()
    }
    events = [_run(one, parts) for one in found]
    events += _through((entry for entry in known if "finished" in entry), found)
    events.sort(key=lambda event: str(event["time"]))
    return {
        "asked": text,
        "events": events,
        "now": now,
        "related": _related(text, found, known),
        "hints": _hints(text, found, events, now),
    }


async def _traces(traces: TraceStore, text: str) -> list[Trace]:
    try:
        return await traces.traces(text, limit=MOST_TRACES)
    except EsbError:
        return []  # what else is known is worth telling


async def _found(store: Store | None, text: str) -> list[dict[str, Any]]:
    return await find(store, text) if store is not None else []


def _through(receipts: Iterable[dict[str, Any]], traces: list[Trace]) -> Iterator[dict[str, Any]]:
    """What receipts tell beside the traces."""
    told = {(trace.id, trace.route, trace.outcome) for trace in traces}
    seen = set()
    for one in receipts:
        name = (one["id"], one["route"], one["outcome"])
        if name in told or (*name, one["finished"]) in seen:
            continue
        seen.add((*name, one["finished"]))
        yield {
            "time": one["finished"],
            "id": one["id"],
            "route": one["route"],
            "text": f"went through route {one['route']}: it {_ended(one['outcome'])}",
        }


def _related(text: str, traces: list[Trace], known: list[dict[str, Any]]) -> list[str]:
    ids = [trace.id for trace in traces] + [entry["id"] for entry in known]
    ids += [visit.id for trace in traces for visit in trace.visits if visit.id]
    ids += [trace.correlation_id for trace in traces if trace.correlation_id]
    told = {text, *(trace.id for trace in traces)}
    return sorted({one for one in ids if one not in told})[:MOST_OTHERS]


def _hints(
    text: str,
    traces: list[Trace],
    events: list[dict[str, Any]],
    now: list[dict[str, Any]],
) -> list[str]:
    hints = []
    if not events and not now:
        hints.append(
            f"nothing is known of '{text}': it never came in here, or it left nothing behind"
        )
    if not traces:
        hints.append(
            "no trace of it was kept, so nothing is known of what the steps did: "
            "'trace: {sample: 0.01, errors: true}' in the project keeps some, and "
            "'esb trace ROUTE' shows what passes now"
        )
    if not events and not now:
        hints.append(
            "what is through can be looked up for a while if it came with 'accept: durable' or "
            "its route has a 'business_key'"
        )
    for one in now:
        if one["state"] == "dead":
            hints.append(
                f"esb dead show {one['key']} shows it as it came, "
                f"esb dead replay {one['key']} runs it again"
            )
    return hints


# --- one run --------------------------------------------------------------------------------------


def _ended(outcome: str, took: str = "") -> str:
    told = _ENDS.get(outcome, f"ended{{}}: {outcome}")
    return told.format(took) if "{}" in told else told + took


def _run(trace: Trace, parts: Mapping[tuple[str, str], Part]) -> dict[str, Any]:
    steps = []
    for depth, visit in trace.tree():
        about = parts.get((visit.route or trace.route.partition("/")[0], visit.place))
        step = {
            "at": visit.begun,
            "seconds": visit.seconds,
            "depth": depth,
            "place": f"{visit.route}: {visit.place}" if visit.route else visit.place,
            "text": _step(trace, visit, about),
        }
        steps.append({**step, "id": visit.id} if visit.id else step)
    return {
        "time": moment(trace.begun),
        "id": trace.id,
        "business_key": trace.business_key,
        "route": trace.route,
        "text": _begin(trace),
        "steps": steps,
        "left_out": trace.left_out,
        "ended": moment(trace.begun + trace.seconds),
        "end": _end(trace),
    }


def _begin(trace: Trace) -> str:
    body = ""
    if trace.given >= 0:
        body = f" with {_body(trace.bodies[trace.given])}"
    if trace.attempt > 1:
        return f"was tried again, for the {_nth(trace.attempt)} time, by route {trace.route}{body}"
    origin = f" from {trace.where}" if trace.where else ""
    who = f" ({trace.principal})" if trace.principal else ""
    return f"came in{origin}{who}, into route {trace.route}{body}"


def _end(trace: Trace) -> str:
    took = f" after {spelled_time(trace.seconds)}"
    failed = [visit for visit in trace.visits if visit.code]
    if not trace.outcome:
        at = f" at {trace.step}" if trace.step else ""
        return f"failed{at}{took}: {trace.code}: {trace.detail}{_notes(trace.notes)}"
    put_off = trace.outcome == "accepted" and trace.visits and _last(trace).code
    if failed and (trace.outcome == "dead" or put_off):
        why = _innermost(failed)
        how = f"was put off{took}, to be tried again" if put_off else _ended("dead", took)
        return f"{how}: {why.code} at {why.place}: {why.detail}"
    if trace.outcome == "accepted" and not trace.visits:
        return f"was stored{took}: whoever sent it was told that it is accepted"
    return _ended(trace.outcome, took)


def _last(trace: Trace) -> Visit:
    """The last of the route's own steps."""
    return [visit for depth, visit in trace.tree() if depth == 0][-1]


def _innermost(failed: list[Visit]) -> Visit:
    """The step where the last failure began: what is around it failed of it, a moment later."""
    last = max(failed, key=lambda visit: visit.begun + visit.seconds)
    same = [v for v in failed if v.detail == last.detail and v.begun >= last.begun]
    steps = [v for v in same if not any(v.place == f"{o.place}.{_verb(v)}" for o in same)] or same
    return max(steps, key=lambda visit: visit.begun)


def _verb(visit: Visit) -> str:
    return visit.place.rpartition(".")[2]


def _step(trace: Trace, visit: Visit, part: Part | None) -> str:
    if visit.code:
        return f"failed: {visit.code}: {visit.detail}{_notes(visit.notes)}"
    told = []
    endpoint = part is not None and part.kind == "endpoint"
    if part is not None and endpoint:
        word = {"caller": "asked", "sink": "gave it to"}.get(part.direction, "used")
        told.append(f"{word} {target(part)}")
    elif branch := _branch(trace, visit, part):
        told.append(branch)
    if parts := _parts(trace, visit):
        told.append(f"ran for {len(parts)} parts" if len(parts) > 1 else "ran for one part")
    if visit.outcome in ("filtered", "dead"):
        filtered = _verb(visit) == "filter"
        told.append("did not let it pass" if filtered else f"it ended within: {visit.outcome}")
    for name, value in visit.headers.items():
        told.append(f"removed header {name}" if value is None else f"set header {name}: {value}")
    if trace.changed(visit):
        got = "got" if endpoint else "made the body"
        told.append(f"{got} {_body(trace.bodies[visit.returned])}")
    if not told and _verb(visit) in ("filter", "validate"):
        told.append("let it pass")
    if not told and visit.outcome == "accepted" and not _inner(trace, visit):
        told.append("put it aside, to go on with it later")
    return ", ".join(told)


def _branch(trace: Trace, visit: Visit, part: Part | None) -> str:
    """Which of its branches a step took."""
    within = [other.place[len(visit.place) :] for other in _inner(trace, visit)]
    taken = next((p[1:].partition("]")[0] for p in within if p.startswith("[")), "")
    if not taken.isdecimal():
        return ""
    branches = getattr(getattr(part, "options", None), "root", None)
    number = int(taken)
    if isinstance(branches, list) and number < len(branches):
        when = getattr(branches[number], "when", None)
        return f"took the branch 'when: {when}'" if when else "took the branch 'otherwise'"
    return f"took branch {number + 1}"


def _inner(trace: Trace, visit: Visit) -> list[Visit]:
    """The visits of what stands within a step."""
    begin = (f"{visit.place}.", f"{visit.place}[")
    return [v for v in trace.visits if v.route == visit.route and v.place.startswith(begin)]


def _parts(trace: Trace, visit: Visit) -> set[str]:
    """The other messages that a step made of this one."""
    own = visit.id or trace.id
    return {
        other.id
        for other in _inner(trace, visit)
        if other.id.startswith(f"{own}.") and "." not in other.id[len(own) + 1 :]
    }


def _body(body: Snapshot) -> str:
    size = f"{spelled_size(body.size)} of " if body.size is not None else ""
    return f"{size}{body.content_type.partition(';')[0] or 'bytes'}"


def _notes(notes: tuple[str, ...]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _nth(number: int) -> str:
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
