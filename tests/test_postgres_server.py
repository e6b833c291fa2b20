"""The PostgreSQL that the tests run on can be stopped and killed as the fault suite needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from postgres import Postgres, answers
from support.waiting import until

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def test_what_was_committed_outlives_stop_and_kill(postgres_of_its_own: Postgres) -> None:
    server = postgres_of_its_own
    url = server.url
    assert server.psql("SHOW fsync") == "on"
    server.psql("CREATE TABLE kept (number int)")
    for number, hard in enumerate((False, True)):
        server.psql(f"INSERT INTO kept VALUES ({number})")
        before = server.pid
        server.restart(hard=hard)
        assert server.pid != before
        assert server.url == url
    assert server.psql("SELECT number FROM kept ORDER BY 1") == "0\n1"
    server.stop()
    assert not server.running
    assert not answers(server.port)


async def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from postgres import Postgres\n"
        "server = Postgres(Path(sys.argv[1])); server.start()\n"
        "print(server.port, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "server")],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
    )
    assert done.returncode == -9
    port = int(done.stdout)
    await until(lambda: not answers(port))


async def test_a_database_of_its_own(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database_url, password="wrong")
