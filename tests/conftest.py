"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from postgres import Postgres
from rabbitmq import Broker
from redis_server import RedisServer
from support.broker import Rabbit, shared_broker
from support.broker import rabbit as outside_view
from support.redis import shared_redis
from support.stores import Place, Served, database, shared_postgres

# The same examples each time, so that a change is to blame for what fails after it. To look for
# more: HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def logs_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command configures in this process ends with its test, loggers included: none is
    cached."""
    before, configure, root = structlog.get_config(), structlog.configure, logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(
        structlog,
        "configure",
        lambda **options: configure(**{**options, "cache_logger_on_first_use": False}),
    )
    yield
    configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """A RabbitMQ that all tests share: use queues of your own (`support.broker.unique`)."""
    with shared_broker() as url:
        yield url


@pytest.fixture
async def rabbit(broker_url: str) -> AsyncIterator[Rabbit]:
    """The shared broker as an outsider sees it, through a client that is not ours."""
    async with outside_view(broker_url) as view:
        yield view


@pytest.fixture
def broker_of_its_own() -> Iterator[Broker]:
    """A RabbitMQ for one test, to be stopped, killed and restarted (from a thread: it blocks)."""
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL that all tests share: use a database of your own (`database_url`)."""
    with shared_postgres() as url:
        yield url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database for one test."""
    async with database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that all tests share: use a prefix of your own (`support.redis.section`)."""
    with shared_redis() as url:
        yield url


@pytest.fixture
def redis_of_its_own() -> Iterator[RedisServer]:
    """A Redis for one test, to be stopped, paused and started again."""
    with RedisServer() as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`place` runs once for each store, or for those that the module names; a test may have another
    parameter of that name."""
    own = any("place" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "place" in metafunc.fixturenames and not own:
        places = getattr(metafunc.module, "PLACES", ("sqlite", "postgres"))
        metafunc.parametrize("place", places, indirect=True)


@pytest.fixture
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Where a store may be made, for a test of what every store does: runs once for each."""
    if request.param != "postgres":
        yield (tmp_path if request.param == "sqlite" else Served(tmp_path)) / "bus.db"
        return
    async with database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def postgres_of_its_own() -> Iterator[Postgres]:
    """A PostgreSQL for one test, to be stopped, killed and restarted (from a thread: it blocks)."""
    with Postgres(in_memory=True) as server:
        yield server
