"""What the middleware counts. Labels are bounded: names from the project's files, and codes."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("esb_in_flight", "Messages in a route now.", ("route",))
DEAD_LETTERS = Counter(
    "esb_dead_letters_total", "Messages given up, by the error's code.", ("route", "code")
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
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
