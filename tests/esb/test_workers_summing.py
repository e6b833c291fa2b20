"""What several workers tell, as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from esb.workers import summing


def counted(messages: int, seconds: float) -> list[summing.Family]:
    """What one process tells."""
    registry = CollectorRegistry()
    Counter("runs", "Runs.", ["route"], registry=registry).labels("a").inc(messages)
    Gauge("now", "Now.", registry=registry).set(messages)
    Histogram("took", "Took.", buckets=(1.0, 5.0), registry=registry).observe(seconds)
    return summing.families(registry.collect())


def text(total: summing.Sum) -> dict[str, float]:
    lines = generate_latest(total).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def test_what_grows_and_levels_are_added_up() -> None:
    total = summing.Sum()
    total.add(counted(2, 0.5))
    total.add(counted(5, 3.0))
    assert text(total) == {
        'runs_total{route="a"}': 7.0,
        "now": 7.0,
        'took_bucket{le="1.0"}': 1.0,
        'took_bucket{le="5.0"}': 2.0,
        'took_bucket{le="+Inf"}': 2.0,
        "took_count": 2.0,
        "took_sum": 3.5,
    }


def test_of_one_that_is_gone_only_what_grows_counts() -> None:
    gone = summing.Sum()
    gone.add(counted(2, 0.5), gone=True)
    total = summing.Sum()
    total.add(gone.families())
    total.add(counted(3, 0.5))
    told = text(total)
    assert told['runs_total{route="a"}'] == 5.0
    assert told["now"] == 3.0
    assert told["took_count"] == 2.0


def test_a_route_and_an_endpoint_are_as_the_worst_has_them() -> None:
    well = {"name": "a", "state": "running", "up": True, "detail": ""}
    away = {"name": "a", "state": "waiting", "up": False, "detail": "no broker"}
    other = {"name": "b", "state": "running", "up": True, "detail": ""}
    assert summing.routes([[well, other], [away, other]]) == [away, other]

    closed = {"name": "crm", "in_flight": 2, "circuit": "closed", "retry_after": 0.0}
    opened = {"name": "crm", "in_flight": 1, "circuit": "open", "retry_after": 7.0}
    assert summing.endpoints([[closed], [opened]]) == [{**opened, "in_flight": 3}]


def test_readiness_tells_all_that_any_has() -> None:
    told = summing.readiness(
        [
            (True, {"status": "degraded", "routes": 2, "waiting": {"a": "x"}, "stopped": ["s"]}),
            (True, {"status": "degraded", "routes": 2, "waiting": {"b": "y"}, "stopped": ["s"]}),
        ]
    )
    assert told == {"routes": 2, "waiting": {"a": "x", "b": "y"}, "stopped": ["s"]}
