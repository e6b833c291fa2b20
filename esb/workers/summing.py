"""What several processes tell, as one: metrics added up, the rest as the one that has it worst."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Labels = tuple[tuple[str, str], ...]
Family = tuple[str, str, str, list[tuple[str, Labels, float]]]
"""Name, type and documentation of a metric, and its samples: name, labels, value."""

_GROWING: Final = frozenset({"counter", "histogram", "summary"})
_EARLIEST: Final = ("_created", "process_start_time_seconds")
_SAME: Final = ("python_info", "process_max_fds", "esb_build_info")
_WORST: Final = ("esb_route_up", "esb_resource_up", "esb_endpoint_up", "esb_endpoint_healthy")
_HIGHEST: Final = ("esb_endpoint_circuit", "esb_amqp_queue_messages")


def families(metrics: Iterable[Metric]) -> list[Family]:
    """Metrics as plain data, to be sent to where they are added up."""
    return [
        (
            metric.name,
            metric.type,
            metric.documentation,
            [(one.name, tuple(one.labels.items()), one.value) for one in metric.samples],
        )
        for metric in metrics
    ]


class Sum:
    """Adds up metrics."""

    def __init__(self) -> None:
        self._about: dict[str, tuple[str, str]] = {}
        self._samples: dict[str, dict[tuple[str, Labels], float]] = {}

    def add(self, told: Iterable[Family], *, gone: bool = False) -> None:
        """Add what a process tells. gone: it is no more, so that only what grows counts."""
        for name, kind, about, samples in told:
            if gone and kind not in _GROWING:
                continue
            self._about[name] = kind, about
            known = self._samples.setdefault(name, {})
            for sample, labels, value in samples:
                key = sample, tuple((label, text) for label, text in labels)
                before = known.get(key)
                if before is None:
                    known[key] = value
                elif sample.endswith(_EARLIEST) or sample in _WORST:
                    known[key] = min(before, value)
                elif sample.endswith(_SAME) or sample in _HIGHEST:
                    known[key] = max(before, value)
                else:
                    known[key] = before + value

    def families(self) -> list[Family]:
        """The sums, to be added again."""
        return [
            (name, *self._about[name], [(*key, value) for key, value in samples.items()])
            for name, samples in self._samples.items()
        ]

    def collect(self) -> Iterator[Metric]:
        """The sums, as Prometheus' client wants them."""
        from prometheus_client.core import Metric, Sample

        for name, kind, about, samples in self.families():
            metric = Metric(name, about, kind)
            metric.samples = [Sample(one, dict(labels), value) for one, labels, value in samples]
            yield metric


_STATES: Final = ("waiting", "stopped", "running")
_CIRCUITS: Final = ("open", "half-open", "closed")


def routes(told: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each route as the worker that has it worst tells it."""
    return [
        min(same, key=lambda one: _STATES.index(one["state"])) for same in _by_name(told).values()
    ]


def endpoints(told: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each endpoint: what is there is added up, its circuit is the worst of all."""
    found = []
    for same in _by_name(told).values():
        worst = min(same, key=lambda one: _CIRCUITS.index(one.get("circuit", "closed")))
        counted = [name for name in ("in_flight", "concurrency", "waiting") if name in worst]
        total: dict[str, Any] = {name: sum(one[name] for one in same) for name in counted}
        if "up" in worst:
            total["up"] = all(one["up"] for one in same)
        if "healthy" in worst:
            ill = (one for one in same if not one.get("healthy", True))
            told_by = next(ill, worst)
            total |= {name: told_by[name] for name in ("healthy", "health")}
        found.append(worst | total)
    return found


def _by_name(told: Sequence[list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for of_one in told:
        for one in of_one:
            found.setdefault(one["name"], []).append(one)
    return found


def readiness(told: Sequence[tuple[bool, dict[str, Any]]]) -> dict[str, Any]:
    """What is said beside the status: of each kind all that any worker says."""
    details: dict[str, Any] = {}
    for _, one in told:
        for name, value in one.items():
            if isinstance(value, dict):
                details.setdefault(name, {}).update(value)
            elif isinstance(value, list):
                details[name] = sorted({*details.get(name, ()), *value})
            elif name != "status":
                details[name] = value
    return details
