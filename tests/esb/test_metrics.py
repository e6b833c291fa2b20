"""What is counted reads as if Prometheus' own client had counted it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb import metrics
from esb.metrics import BOUNDS, Counter, Gauge, Histogram

edges = st.sampled_from(BOUNDS)
seconds = st.floats(0, 100) | edges


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    known = list(metrics._MEASURES)
    yield
    metrics._MEASURES[:] = known


def told(family: prometheus_client.Metric) -> set[tuple[str, str, float]]:
    return {
        (sample.name, str(sorted(sample.labels.items())), sample.value)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), seconds), max_size=20))
def test_times_are_told_as_by_prometheus_own_client(observed: list[tuple[str, float]]) -> None:
    ours = Histogram("t_seconds", "How long.", ("who",))
    theirs = prometheus_client.Histogram(
        "t_seconds", "How long.", ("who",), registry=None, buckets=BOUNDS
    )
    for who, took in observed:
        ours.labels(who).add(took)
        theirs.labels(who).observe(took)
    [wanted] = theirs.collect()
    assert told(ours.family()) == told(wanted)
    assert (ours.family().type, ours.family().documentation) == (wanted.type, wanted.documentation)


def test_counts_and_levels_are_told_as_by_prometheus_own_client() -> None:
    ours = Counter("t_total", "How many.", ("who", "how"))
    theirs = prometheus_client.Counter("t_total", "How many.", ("who", "how"), registry=None)
    for labels in (("a", "x"), ("a", "y"), ("a", "x")):
        ours.labels(*labels).value += 1
        theirs.labels(*labels).inc()
    assert told(ours.family()) == told(*theirs.collect())
    level = Gauge("t_level", "How much.")
    assert told(level.family()) == {("t_level", "[]", 0)}  # there is one, and it is 0
    level.labels().value = 2.5
    assert told(level.family()) == {("t_level", "[]", 2.5)}
    named = Gauge("t_named", "How much.", ("who",))
    named.labels("a").value = 1
    assert told(named.family()) == {("t_named", "[('who', 'a')]", 1)}
    named.clear()
    assert told(named.family()) == set()


def test_what_is_not_kept_is_looked_up_when_somebody_asks() -> None:
    levels = {("a",): 1.0}
    Gauge("t_read", "How much.", ("who",), lambda: levels)
    told = metrics.registry().get_sample_value
    assert told("t_read", {"who": "a"}) == 1
    levels["a",] = 2.0
    assert told("t_read", {"who": "a"}) == 2


def test_prometheus_client_is_loaded_when_somebody_asks() -> None:
    script = (
        "import sys; import esb.cli, esb.service; assert 'prometheus_client' not in sys.modules\n"
        "from esb.metrics import registry; import prometheus_client\n"
        "text = prometheus_client.generate_latest(registry()).decode()\n"
        "assert 'esb_configuration_current 0.0' in text, text\n"
        "assert 'process_resident_memory_bytes' in text, text\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
