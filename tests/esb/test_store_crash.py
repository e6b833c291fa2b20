"""Nothing that was acknowledged is lost when the process dies, wherever it dies."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.stores import Place, opened
from support.waiting import until

from esb.store import SqliteStore

WRITER = Path(__file__).parents[1] / "support" / "crashing_writer.py"


def lines(ledger: Path) -> list[list[str]]:
    if not ledger.exists():
        return []
    return [line.split() for line in ledger.read_text().splitlines()]


async def check(place: Place, ledger: Path) -> tuple[int, int]:
    """Hold what lies in the store against the ledger; returns how much each says."""
    said = lines(ledger)
    accepted = {int(key): name for kind, key, name in said if kind == "A"}
    gone = {int(key) for kind, key, _ in said if kind == "D"}
    found: dict[int, str] = {}
    async with opened(place) as store:
        if isinstance(store, SqliteStore):
            assert store._connections[0].pragma("integrity_check") == "ok"
        after = 0
        while page := await store.browse("ledger", limit=1000, after=after):
            for stored in page:
                found[stored.key] = stored.envelope.id
                assert stored.envelope.body.raw == stored.envelope.id.encode() * 20
            after = page[-1].key
        assert "damaged" not in await store.counts()
    for key, name in accepted.items():
        if key in gone:
            assert key not in found, "it was acknowledged as gone"
        elif key not in found:
            # Every third may be gone already, its acknowledgement not yet in the ledger.
            assert key % 3 == 0, f"message {key} was acknowledged and is lost"
        else:
            assert found[key] == name
    return len(accepted), len(found)


async def test_kill_at_any_moment(tmp_path: Path, place: Place) -> None:
    ledger = tmp_path / "ledger"
    generator = random.Random(7)
    for round_number in range(4):
        before = len(lines(ledger))
        writer = subprocess.Popen([sys.executable, str(WRITER), str(place), str(ledger)])
        try:
            target = before + generator.randint(1, 400)
            await until(lambda target=target: len(lines(ledger)) >= target)
        finally:
            writer.kill()
        assert writer.wait() == -9, "it was alive until it was killed"
        accepted, kept = await check(place, ledger)
        assert accepted > round_number
        assert kept > 0


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to kill inside a system call")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
async def test_kill_inside_a_system_call(tmp_path: Path, call: str) -> None:
    """The process dies in the N-th write or fsync of its life, whichever part it belongs to."""
    if not _can_trace(tmp_path):
        pytest.skip("strace may not trace here")
    killed = acknowledged = 0
    for number in (2, 12, 60, 150):
        path, ledger = tmp_path / f"{number}.db", tmp_path / f"{number}.ledger"
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        done = subprocess.run(
            [*command, sys.executable, str(WRITER), str(path), str(ledger)],
            timeout=60,
            check=False,
        )
        killed += done.returncode == -9
        accepted, _ = await check(path, ledger)
        acknowledged += accepted
    assert killed == 4
    assert acknowledged > 0


def _can_trace(folder: Path) -> bool:
    command = ["strace", "-qq", "-o", str(folder / "probe"), "-e", "trace=write", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
