"""A bus that is broken on purpose. Run as `python sabotage.py NAME run ...`: the rest is for `esb`.

A suite that such a bus passes proves nothing, so each is judged as the bus itself is. This is the
only place of the suite that knows the insides of the bus: it breaks them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def accept_before_commit() -> None:
    """Tells that a message is on the disk a moment before its transaction is committed."""
    from esb.store import commit

    class Hasty:
        def __init__(self, connection: Any) -> None:
            self.connection = connection
            self.tell: Callable[[], None] = lambda: None

        def execute(self, sql: str, *rest: Any) -> Any:
            if sql == "COMMIT":
                self.tell()
                time.sleep(0.1)
            return self.connection.execute(sql, *rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

    honest: Any = commit.GroupCommit._transact

    def hasty(self: Any, jobs: Any, *rest: Any) -> Any:
        if not isinstance(self._db, Hasty):
            self._db = Hasty(self._db)
        self._db.tell = lambda: self._loop.call_soon_threadsafe(commit._settle, jobs)
        return honest(self, jobs, *rest)

    setattr(commit.GroupCommit, "_transact", hasty)  # noqa: B010


def settle_before_step() -> None:
    """Acknowledges a message to the broker before the route has it, and never again."""
    from esb_amqp import source

    class Deaf:
        is_open = True

        async def _nothing(self, *_: Any) -> None:
            pass

        ack = nack = reject = _nothing

    honest: Any = source.AmqpSource._handle

    async def hasty(self: Any, delivery: Any) -> None:
        delivery.channel.ack(delivery.tag)
        await honest(self, delivery._replace(channel=Deaf()))

    setattr(source.AmqpSource, "_handle", hasty)  # noqa: B010


def poison() -> None:
    """No mutant: sending a message with the fate "poison" kills the process, as a bug in a
    library might."""
    from esb_http import endpoint

    honest: Any = endpoint.HttpSink.send

    async def deadly(self: Any, envelope: Any) -> None:
        if b'"fate": "poison"' in envelope.body.raw[:200]:
            os.kill(os.getpid(), signal.SIGKILL)
        await honest(self, envelope)

    setattr(endpoint.HttpSink, "send", deadly)  # noqa: B010


SABOTAGE = {f.__name__: f for f in (accept_before_commit, settle_before_step, poison)}


if __name__ == "__main__":
    SABOTAGE[sys.argv.pop(1)]()
    from esb.cli import main

    main()
