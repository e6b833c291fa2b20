"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from rabbitmq import Broker
from support.broker import Rabbit, shared_broker
from support.broker import rabbit as outside_view

# The same examples each time, so that a change is to blame for what fails after it. To look for
# more: HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


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
