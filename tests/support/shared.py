"""One RabbitMQ, one PostgreSQL and one Redis for all tests that run at the same time.

A server belongs to nobody: whoever comes first starts a keeper process, and each user holds a
shared lock on a file. The kernel lets go of a lock when its holder dies, however it dies, so the
keeper knows when the last one is gone: it then gets the lock for itself, and stops the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent.parent
_START_TIMEOUT = 120.0


@contextlib.contextmanager
def shared(kind: str, answers: Callable[[str], bool]) -> Iterator[str]:
    """The URL of a server ("rabbitmq", "postgres" or "redis") that other test processes use too.

    answers: whether there is one at a URL.
    """
    folder = _PROJECT / ".tools" / f"{kind}-shared-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gate").open("a") as gate, (folder / "users").open("a") as users:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one at a time looks and starts
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a keeper that is just stopping
        state = folder / "url"
        if not (state.exists() and answers(state.read_text())):
            _start_keeper(kind, folder, state)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield state.read_text()


def _start_keeper(kind: str, folder: Path, state: Path) -> None:
    state.unlink(missing_ok=True)
    with (folder / "keeper.log").open("wb") as out:
        keeper = subprocess.Popen(
            [sys.executable, __file__, kind, str(folder)],
            env={**os.environ, "PYTHONPATH": str(_PROJECT / "tools")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while not state.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no {kind}: {(folder / 'keeper.log').read_text()[-2000:]}")
        time.sleep(0.05)


def _server(kind: str) -> Any:
    if kind == "postgres":
        from postgres import Postgres

        return Postgres(in_memory=True)
    if kind == "redis":
        from redis_server import RedisServer

        return RedisServer()
    from rabbitmq import Broker

    return Broker()


def _keep(kind: str, folder: Path) -> None:
    """Run a server for as long as somebody uses it."""
    with _server(kind) as server, (folder / "users").open("a") as users:
        state = folder / "url"
        new = folder / "url.new"
        new.touch(mode=0o600)  # it may hold a password
        new.write_text(server.url)
        new.rename(state)
        while server.running:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.2)
        state.unlink(missing_ok=True)
        server.close()  # before the lock is let go


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _keep(sys.argv[1], Path(sys.argv[2]))
