"""A real Redis for a test."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

from support.shared import shared


@contextlib.contextmanager
def shared_redis() -> Iterator[str]:
    """The URL of a Redis that other test processes use too."""
    with shared("redis", _answers) as url:
        yield url


def section(url: str, prefix: str = "", **more: str) -> str:
    """A line of YAML that has a bus share what it counts and keeps there; under a prefix that
    nobody else uses, if none is given."""
    options = {"url": url, "prefix": prefix or f"test-{uuid.uuid4().hex}:", **more}
    return "\nredis: " + json.dumps(options) + "\n"


def _answers(url: str) -> bool:
    from redis_server import answers

    return answers(urlsplit(url).port or 0)
