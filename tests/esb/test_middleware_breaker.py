"""The circuit breaker, the bulkhead, and the guard that holds both."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import message
from support.waiting import Jumping, until

from esb.envelope import Envelope
from esb.errors import (
    BadMessage,
    BadReply,
    CircuitOpen,
    Denied,
    EsbError,
    Fault,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RouteFailure,
    TimedOut,
    Transient,
    Unreachable,
)
from esb.metrics import registry
from esb.middleware.breaker import Breaker, BreakerOptions
from esb.middleware.endpoint import Guard
from esb.middleware.limit import Bulkhead


class Circuit:
    """A breaker on a clock that a test moves."""

    def __init__(self, **options: float) -> None:
        self.jumping = Jumping()
        self.breaker = Breaker(
            BreakerOptions.model_validate(options), name="crm", clock=self.jumping.clock
        )

    def call(self, error: BaseException | None = None) -> None:
        """One call that ends so."""
        self.breaker.leave(self.breaker.enter(), error)

    def wait(self, seconds: float) -> None:
        self.jumping.now += seconds

    @property
    def state(self) -> str:
        return self.breaker.state


def test_it_opens_after_so_many_failures_and_says_for_how_long() -> None:
    circuit = Circuit(failures=3, open_for=20.0)
    for _ in range(2):
        circuit.call(Unreachable("down"))
    assert circuit.state == "closed"
    circuit.call(OutcomeUnknown("who knows").noted("POST http://crm.example/"))
    assert circuit.state == "open"
    circuit.wait(5)
    with pytest.raises(CircuitOpen) as caught:
        circuit.call()
    assert caught.value.retry_after == 15
    assert isinstance(caught.value, Unreachable), "nothing was sent"
    # Where it is, and what was the matter, is for operators alone.
    assert "crm" not in str(caught.value)
    assert caught.value.notes == (
        "the circuit of crm is open: who knows; POST http://crm.example/",
    )
    assert circuit.breaker.health().up is False


def test_failures_count_within_a_time() -> None:
    circuit = Circuit(failures=3, within=10.0)
    for _ in range(20):
        circuit.call(Transient("no"))
        circuit.wait(5.1)
    assert circuit.state == "closed"
    for _ in range(2):
        circuit.call(Transient("no"))
    assert circuit.state == "open"


def test_failures_count_as_a_share_of_all_calls() -> None:
    circuit = Circuit(failures=3, share=0.5)
    for _ in range(8):
        circuit.call()
    for _ in range(7):
        circuit.call(Transient("no"))
        assert circuit.state == "closed"
    circuit.call(Transient("no"))
    assert circuit.state == "open"


@pytest.mark.parametrize("error", [Rejected("409"), Fault("f"), BadReply("?"), Denied("no")])
def test_an_answer_is_an_answer(error: EsbError) -> None:
    circuit = Circuit(failures=1, open_for=1.0)
    circuit.call(error)
    assert circuit.state == "closed"
    circuit.call(Transient("no"))
    circuit.wait(1)
    circuit.call(error)
    assert circuit.state == "closed", "the far side is there again"


@pytest.mark.parametrize(
    "error", [RouteFailure("no URL"), BadMessage("b"), ValueError(), asyncio.CancelledError()]
)
def test_what_is_not_its_doing_says_nothing(error: BaseException) -> None:
    circuit = Circuit(failures=1, open_for=1.0)
    circuit.call(error)
    assert circuit.state == "closed"
    circuit.call(Transient("no"))
    circuit.wait(1)
    circuit.call(error)
    assert circuit.state == "half-open"
    circuit.call()
    assert circuit.state == "closed"


def test_one_probe_passes_and_decides() -> None:
    circuit = Circuit(failures=1, open_for=30.0)
    circuit.call(TimedOut("no"))
    circuit.wait(30)
    assert circuit.state == "half-open"
    probe = circuit.breaker.enter()
    with pytest.raises(CircuitOpen) as caught:
        circuit.call()
    assert caught.value.retry_after == 1
    circuit.breaker.leave(probe, TimedOut("no"))
    assert circuit.state == "open"
    assert circuit.breaker.retry_after == 30
    circuit.wait(30)
    circuit.call()
    assert circuit.state == "closed"


def test_once_closed_it_counts_anew() -> None:
    circuit = Circuit(failures=2, open_for=1.0)
    for _ in range(2):
        circuit.call(TimedOut("no"))
    circuit.wait(1)
    circuit.call()
    circuit.call(TimedOut("no"))
    assert circuit.state == "closed"


def test_as_many_probes_as_were_asked_for_must_succeed() -> None:
    circuit = Circuit(failures=1, open_for=1.0, probes=3)
    circuit.call(Transient("no"))
    circuit.wait(1)
    probes = [circuit.breaker.enter() for _ in range(3)]
    assert circuit.breaker.retry_after > 0
    for probe in probes[:2]:
        circuit.breaker.leave(probe, None)
    assert circuit.state == "half-open"
    assert circuit.breaker.retry_after > 0, "two have passed and one is under way"
    circuit.breaker.leave(probes[2], None)
    assert circuit.state == "closed"


def test_calls_that_began_before_it_opened_say_nothing_any_more() -> None:
    circuit = Circuit(failures=1, open_for=10.0)
    hanging = [circuit.breaker.enter() for _ in range(3)]
    circuit.call(Transient("no"))
    circuit.wait(9)
    circuit.breaker.leave(hanging[0], TimedOut("no"))
    assert circuit.breaker.retry_after == 1
    circuit.wait(1)
    probe = circuit.breaker.enter()
    circuit.breaker.leave(hanging[1], None)
    assert circuit.state == "half-open"
    circuit.breaker.leave(probe, None)
    circuit.breaker.leave(hanging[2], TimedOut("no"))
    assert circuit.state == "closed"


@given(
    st.lists(st.sampled_from(["ok", "failed", "begin", "end", "wait"]), max_size=60),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_no_course_of_events_leaves_it_open_for_ever(
    events: list[str], failures: int, probes: int
) -> None:
    circuit = Circuit(failures=failures, probes=probes, open_for=5.0)
    begun: list[int] = []
    refused: list[float] = []
    for event in events:
        if event == "wait":
            circuit.wait(3)
            continue
        if event == "end":
            if begun:
                circuit.breaker.leave(begun.pop(), None)
            continue
        try:
            era = circuit.breaker.enter()
        except CircuitOpen as e:
            refused.append(e.retry_after or 0.0)
            continue
        if event == "begin":
            begun.append(era)
        else:
            circuit.breaker.leave(era, None if event == "ok" else Transient("no"))
    assert all(0 < seconds <= 5 for seconds in refused)
    for era in begun:
        circuit.breaker.leave(era, None)
    circuit.wait(5)
    for _ in range(probes):
        circuit.call()
    assert circuit.state == "closed"


# --- the guard ------------------------------------------------------------------------------------


class FarSide:
    """An endpoint that answers when it is told to."""

    def __init__(self, error: EsbError | None = None) -> None:
        self.error = error
        self.asked = 0
        self.answers = asyncio.Event()

    async def __call__(self, envelope: Envelope) -> None:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error


async def test_an_open_circuit_touches_nothing_and_waits_for_no_turn() -> None:
    breaker = Breaker(BreakerOptions(failures=1), name="crm")
    guard = Guard("r/steps[0].send", "http", bulkhead=Bulkhead(2, what="it"), breaker=breaker)
    far = FarSide()
    hanging = [asyncio.create_task(guard.around(far)(message())) for _ in range(2)]
    await until(lambda: far.asked == 2)
    waiting = asyncio.create_task(guard.around(far)(message()))
    await until(lambda: guard.bulkhead is not None and guard.bulkhead.waiting == 1)
    breaker.leave(breaker.enter(), Unreachable("down"))
    with pytest.raises(CircuitOpen):
        await guard.around(far)(message())
    far.answers.set()
    await asyncio.gather(*hanging)
    # Who waited for a turn meets the circuit as it is when the turn comes.
    with pytest.raises(CircuitOpen):
        await waiting
    assert far.asked == 2


async def test_turned_away_by_the_bulkhead_is_no_failure_of_the_far_side() -> None:
    breaker = Breaker(BreakerOptions(failures=1), name="crm")
    bulkhead = Bulkhead(1, what="the service", waiting=0)
    guard = Guard("r/steps[0].send", "http", bulkhead=bulkhead, breaker=breaker)
    far = FarSide()
    running = asyncio.create_task(guard.around(far)(message()))
    await until(lambda: guard.in_flight)
    with pytest.raises(Overloaded, match="the service is busy"):
        await guard.around(far)(message(deadline=time.monotonic() + 60))
    assert breaker.state == "closed"
    far.answers.set()
    await running


async def test_a_message_that_came_too_late_is_no_failure_of_the_far_side() -> None:
    breaker = Breaker(BreakerOptions(failures=1), name="crm")
    guard = Guard("r/steps[0].send", "http", breaker=breaker)
    far = FarSide(TimedOut("no time was left"))
    far.answers.set()
    with pytest.raises(TimedOut):
        await guard.around(far)(message(deadline=time.monotonic() - 1))
    assert breaker.state == "closed"
    with pytest.raises(TimedOut):
        await guard.around(far)(message(deadline=time.monotonic() + 60))
    assert breaker.state == "open"


async def test_what_the_metrics_say() -> None:
    def value(name: str, **labels: str) -> float | None:
        return registry().get_sample_value(name, {"endpoint": "metrics/steps[0].call", **labels})

    breaker = Breaker(BreakerOptions(failures=1), name="crm")
    guard = Guard("metrics/steps[0].call", "http", breaker=breaker)
    far = FarSide()
    running = asyncio.create_task(guard.around(far)(message()))
    await until(lambda: value("esb_endpoint_in_flight") == 1)
    far.answers.set()
    await running
    assert (value("esb_endpoint_in_flight"), value("esb_endpoint_circuit")) == (0, 0)
    far.error = Overloaded("no")
    for expected in (Overloaded, CircuitOpen, CircuitOpen):
        with pytest.raises(expected):
            await guard.around(far)(message())
    with pytest.raises(ZeroDivisionError):
        await Guard("metrics/steps[0].call", "http").around(_breaks)(message())
    counted = {
        outcome: value("esb_endpoint_calls_total", outcome=outcome)
        for outcome in ("ok", "overloaded", "circuit-open", "broken")
    }
    assert counted == {"ok": 1, "overloaded": 1, "circuit-open": 2, "broken": 1}
    assert value("esb_endpoint_seconds_count") == 3, "what was not asked took no time"
    assert value("esb_endpoint_circuit") == 2
    assert guard.status() | {"retry_after": 0} == {
        "name": "metrics/steps[0].call",
        "adapter": "http",
        "up": False,
        "in_flight": 0,
        "circuit": "open",
        "detail": "open: no",
        "retry_after": 0,
    }


async def _breaks(envelope: Envelope) -> None:
    raise ZeroDivisionError
