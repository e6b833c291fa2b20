#!/usr/bin/env python3
"""A private PostgreSQL: for tests and for trying the bus, as root or not, never a system service.

    python3 tools/postgres.py install             unpack Debian's packages into .tools/postgres/
    python3 tools/postgres.py run [--port 5432]   run one in the foreground, data in .postgres/

One that the system has is used as it is (its programs, never its databases). Standard library only,
because this runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from servers import (
    PROJECT,
    TOOLS,
    Apt,
    CannotInstall,
    Server,
    ServerFailed,
    command_line,
    libraries,
    ports,
    spawn,
    unpack,
)

UNPACKED = TOOLS / "postgres"
OLDEST = 13
NOT_NEEDED = ("libllvm", "libz3", "libperl", "libjson-perl")
"""Libraries of its compiler for long queries and of Debian's scripts around it: they are larger
than all the rest together."""
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

MEMORY = Path("/dev/shm")
GB = 1024**3

NOBODY = 65534
"""PostgreSQL refuses to run as root, so root runs it as this user."""

AS_NOBODY = (
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    # It must reach this project, whose folder may be closed to others, such as /root. The last
    # one is for access(2), which would otherwise look at the user alone.
    *("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"),
    *("--securebits", "+no_setuid_fixup"),
)


# --- getting it ----------------------------------------------------------------------------------


def install() -> Path:
    """The folder of the server's programs, unpacked when missing.

    Quick when it is there; safe to call from several processes at once. Raises CannotInstall.
    """
    for root in (UNPACKED, Path("/")):
        if found := _programs(root):
            return found
    if (on_path := shutil.which("postgres")) and shutil.which("initdb"):
        return Path(on_path).resolve().parent
    unpack(UNPACKED, "PostgreSQL (20 MB)", _packages, lambda root: _programs(root) is not None)
    found = _programs(UNPACKED)
    assert found is not None
    return found


def _programs(root: Path) -> Path | None:
    """Where Debian's packages put them; the newest if there are several."""
    found = {
        int(folder.parent.name): folder
        for folder in root.glob("usr/lib/postgresql/*/bin")
        if folder.parent.name.isdigit() and (folder / "initdb").exists()
    }
    return found[max(found)] if found and max(found) >= OLDEST else None


def _packages(apt: Apt) -> set[str]:
    servers = [name for name in apt.depends("postgresql") if re.fullmatch(r"postgresql-\d+", name)]
    if not servers:
        raise CannotInstall("the package lists have no postgresql")
    [server] = servers
    needed = {name for name in apt.missing_libraries(server) if not name.startswith(NOT_NEEDED)}
    return {server, server.replace("-", "-client-"), *needed}


# --- running it ----------------------------------------------------------------------------------


class Postgres(Server):
    """One server on 127.0.0.1 with its own data folder, password and port.

    folder: where its data lies; a temporary one, removed by `close`, if None. in_memory: that one
        in memory, where there is room: for tests that are not about disks.
    port: a free one if 0. It stays the same over restarts.
    settings: more of postgresql.conf, over those here.

    It dies with the process that made it, so that a killed test run leaves nothing behind.
    """

    what = "PostgreSQL"

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        settings: dict[str, str] | None = None,
        *,
        in_memory: bool = False,
    ) -> None:
        self._temporary = folder is None
        where = MEMORY if in_memory and _roomy(MEMORY) else None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="postgres-", dir=where))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._settings = settings or {}
        self._programs = install()
        self._password = self.folder / "password"

    @property
    def url(self) -> str:
        """Its database `postgres`, as its superuser."""
        password = self._password.read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process that all its others come from."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and return when it takes connections. Raises ServerFailed."""
        if self.running:
            return
        self._make()
        deadline = time.monotonic() + START_TIMEOUT
        first = self.process is None and self.port == 0
        while True:
            if first:
                with ports(0) as (self.port,):
                    pass
            self._launch()
            try:
                self.wait_ready(self._is_ready, deadline)
                return
            except ServerFailed as e:
                self.kill()
                # Those that a killed server leaves may hold its memory for a moment; somebody
                # else may have taken a port between our choice and its use.
                passing = "still in use" in str(e) or (first and "already in use" in str(e))
                if not passing or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop in order (a "fast shutdown": connections are ended, transactions rolled back)."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all its processes: what a crash of the machine is to them."""
        if self.process is None:
            return
        children = _children(self.process.pid)
        self.process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.wait()

    def restart(self, *, hard: bool = False) -> None:
        """Stop or kill it and start it again on the same data and port."""
        self.kill() if hard else self.stop()
        self.start()

    def close(self) -> None:
        """Stop if running and remove the data folder if it was a temporary one."""
        self.kill() if self._temporary else self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run SQL as an outsider and return the rows, columns parted by tabs."""
        done = subprocess.run(
            [
                *(str(self._programs / "psql"), "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1"),
                *("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-c", sql, database),
            ],
            env={**self._environment(), "PGPASSWORD": self._password.read_text()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ServerFailed(f"psql: {done.stderr.strip()[-500:]}")
        return done.stdout.rstrip("\n")

    def _make(self) -> None:
        if (self.folder / "data" / "PG_VERSION").exists():
            return
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_hex(16))
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)  # half made, if we were stopped meanwhile
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(data, NOBODY, NOBODY)
        done = subprocess.run(
            [
                *(*_as_user(), str(self._programs / "initdb"), "-D", str(data), "-U", "postgres"),
                *("--pwfile", str(self._password), "--auth=scram-sha-256", "--encoding=UTF8"),
                *("--locale=C", "--no-sync", "--no-instructions"),
            ],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            shutil.rmtree(data, ignore_errors=True)
            raise ServerFailed(f"initdb: {done.stderr.strip()[-1000:]}")

    def _launch(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "jit": "off",  # its library was not unpacked
            "max_wal_size": "128MB",
            "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]
        with self.log.open("wb") as log:
            self.process = spawn(
                [*_as_user("--pdeathsig", "KILL"), *command],  # changing the user took that away
                cwd=self.folder,
                env=self._environment(),
                log=log,
            )

    def _environment(self) -> dict[str, str]:
        root = self._programs.parents[4] if UNPACKED in self._programs.parents else Path("/")
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **libraries(root)}

    def _is_ready(self) -> bool:
        return "ready to accept connections" in self.log.read_text(errors="replace")


def _roomy(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > GB


def _as_user(*more: str) -> list[str]:
    return [*AS_NOBODY, *more] if os.geteuid() == 0 else []


def _children(pid: int) -> list[int]:
    """They lead process groups of their own, so that a signal to the parent's misses them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def answers(port: int) -> bool:
    """Whether a PostgreSQL answers an SSLRequest (Frontend/Backend Protocol, "SSL Session
    Encryption")."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(struct.pack("!ii", 8, 80877103))
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False


# --- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    make = lambda port, data: Postgres(data, port)  # noqa: E731
    return command_line("PostgreSQL", install, make, 5432, PROJECT / ".postgres", argv)


if __name__ == "__main__":
    sys.exit(main())
