"""What the bus counts and times: plain numbers, which somebody asks for now and then.

To count is to add to a number that was looked up once. Prometheus' client, whose own counters cost
ten times as much with every message, reads the numbers when it is asked for them, and is imported
only then. All is counted in the thread of the event loop. Labels are bounded: names from the
project's files, and codes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, core

T = TypeVar("T")

BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds by which what was timed is told apart."""
_LE: Final = (*map(str, BOUNDS), "+Inf")


class Number:
    """A count or a level; `value` is there to be changed."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Times:
    """How often something took how long: `counts` between one of the `BOUNDS` and the next."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Once more, and it took so long."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class _Measure(Generic[T]):
    """The numbers of one name, told apart by the values of its labels."""

    _make: Callable[[], T]

    def __init__(self, name: str, about: str, labels: tuple[str, ...] = ()) -> None:
        self._name = name
        self._about = about
        self._labels = labels
        self._known: dict[tuple[str, ...], T] = {}
        if not labels:
            self.labels()
        _MEASURES.append(self)

    def labels(self, *values: str) -> T:
        """The number under these values; if there was none, a new one."""
        found = self._known.get(values)
        if found is None:
            found = self._known[values] = self._make()
        return found

    def family(self) -> core.Metric:
        """What is known, as Prometheus' client wants it."""
        raise NotImplementedError


class Counter(_Measure[Number]):
    """Numbers that only grow."""

    _make = Number

    def family(self) -> core.Metric:
        """See _Measure."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, number in self._known.items():
            family.add_metric(values, number.value)
        return family


class Gauge(_Measure[Number]):
    """Levels. read: where they are not kept, tells those there are now."""

    _make = Number

    def __init__(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...] = (),
        read: Callable[[], Mapping[tuple[str, ...], float]] | None = None,
    ) -> None:
        super().__init__(name, about, labels)
        self._read = read

    def clear(self) -> None:
        """Nothing is known any more."""
        self._known.clear()

    def family(self) -> core.Metric:
        """See _Measure."""
        from prometheus_client.core import GaugeMetricFamily

        levels = self._read() if self._read else {v: n.value for v, n in self._known.items()}
        family = GaugeMetricFamily(self._name, self._about, labels=self._labels)
        for values, level in levels.items():
            family.add_metric(values, level)
        return family


class Histogram(_Measure[Times]):
    """How long things took."""

    _make = Times

    def family(self) -> core.Metric:
        """See _Measure."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for values, times in self._known.items():
            buckets = list(zip(_LE, accumulate(times.counts), strict=True))
            family.add_metric(values, buckets, times.total)
        return family


_MEASURES: Final[list[_Measure[Any]]] = []


class _Measures:
    """Prometheus' `Collector` of all there are."""

    def collect(self) -> Iterator[core.Metric]:
        for measure in list(_MEASURES):
            yield measure.family()


@cache
def registry() -> CollectorRegistry:
    """Prometheus' registry, with all that the bus counts, and what a project's own Python does."""
    from prometheus_client import REGISTRY

    REGISTRY.register(_Measures())
    return REGISTRY


# --- messages -------------------------------------------------------------------------------------

MESSAGES = Counter(
    "esb_messages_total",
    "Runs of a route by how they ended: an outcome (message, reply, accepted, filtered, dead), "
    "or refused, failed (may pass), broken (a bug), cancelled.",
    ("route", "outcome"),
)
SECONDS = Histogram(
    "esb_message_seconds",
    "How long runs of a route took, waits between tries included.",
    ("route",),
)
IN_FLIGHT = Gauge("esb_in_flight", "Messages in a route now.", ("route",))
DEAD_LETTERS = Counter(
    "esb_dead_letters_total",
    "Messages given up, by the error's code. What never got into a route (expired, poison) is told "
    "with its channel in the place of one.",
    ("route", "code"),
)
_MOST_CHANNELS: Final = 200
_buried: Final[set[str]] = set()


def buried(channel: str, code: str) -> None:
    """One more that the store itself gave up. Names of channels may come from messages, so beyond
    some they are told together."""
    if channel not in _buried:
        if len(_buried) >= _MOST_CHANNELS:
            channel = OTHERS
        _buried.add(channel)
    DEAD_LETTERS.labels(channel, code).value += 1


OTHERS: Final = "(others)"
DENIED = Counter("esb_denied_total", "Messages whose sender was not allowed to.", ("route",))
AUTHENTICATIONS = Counter(
    "esb_authentications_total",
    "Callers who showed who they are, by the way of the section `auth`: known, refused (their "
    "credentials are not valid), paused (they failed too often).",
    ("way", "how"),
)
RETRIES = Counter(
    "esb_retries_total", "Further tries: at once in process, or parked durably.", ("route", "how")
)
ENDPOINT_CALLS = Counter(
    "esb_endpoint_calls_total",
    "Messages to an endpoint of `send` or `call` by how it ended: ok, an error's code, broken (a "
    "bug), cancelled.",
    ("endpoint", "outcome"),
)
ENDPOINT_SECONDS = Histogram(
    "esb_endpoint_seconds",
    "How long the far side took, waiting for a turn not included.",
    ("endpoint",),
)
