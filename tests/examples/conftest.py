"""Examples run as they are, with their own names, so they share a broker with nobody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rabbitmq import Broker
from support.backend import Backend, backend
from support.examples import PROJECT, Start, running
from support.processes import Process, free_ports


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `esb run examples/<name>` and further files on free ports; the keywords are its
    environment."""
    with ExitStack() as stack:
        yield lambda name, *files, **environ: stack.enter_context(
            running(name, environ, tmp_path, files)
        )


@pytest.fixture
def legacy(tmp_path: Path) -> Iterator[str]:
    """The stand-in legacy service."""
    (port,) = free_ports(1)
    command = [sys.executable, "examples/legacy/server.py", "--port", str(port)]
    with Process(command, cwd=PROJECT) as process:
        process.wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
        assert process.stop() == 0


@pytest.fixture
def service() -> Iterator[Backend]:
    """A REST service that the test can look into."""
    with backend() as one:
        yield one


@pytest.fixture(scope="session")
def own_broker_url() -> Iterator[str]:
    """A RabbitMQ for the examples of this process alone."""
    with Broker() as broker:
        yield broker.url
