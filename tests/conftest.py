"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from rabbitmq import Broker
from support.broker import Rabbit, shared_broker
from support.broker import rabbit as outside_view


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
