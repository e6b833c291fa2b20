#!/usr/bin/env python3
"""A private Redis: for tests and for trying the bus, as root or not, never as a system service.

    python3 tools/redis_server.py install             unpack Debian's packages into .tools/redis/
    python3 tools/redis_server.py run [--port 6379]   run one in the foreground; it keeps nothing

One that the system has is used as it is. Standard library only, because this runs before there is a
virtual environment. (Not `redis.py`: that is the name of the client library.)
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from servers import TOOLS, Apt, Server, ServerFailed, command_line, libraries, ports, spawn, unpack

UNPACKED = TOOLS / "redis"
PACKAGES = ("redis-server", "redis-tools")
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


# --- getting it ----------------------------------------------------------------------------------


def install() -> Path:
    """The server's program, unpacked when missing.

    Quick when it is there; safe to call from several processes at once. Raises CannotInstall.
    """
    if _complete(UNPACKED):
        return _program(UNPACKED)
    for name in ("redis-server", "valkey-server"):
        if on_path := shutil.which(name):
            return Path(on_path)
    unpack(UNPACKED, "Redis (2 MB)", _packages, _complete)
    return _program(UNPACKED)


def _program(root: Path) -> Path:
    return root / "usr/bin/redis-server"


def _complete(root: Path) -> bool:
    return _program(root).exists()  # a link into the other package


def _packages(apt: Apt) -> set[str]:
    return {*PACKAGES, *(name for package in PACKAGES for name in apt.missing_libraries(package))}


# --- running it ----------------------------------------------------------------------------------


class RedisServer(Server):
    """One server on 127.0.0.1 with its own password and port, which keeps nothing on a disk.

    port: a free one if 0. It stays the same over restarts.
    settings: more of redis.conf.

    It dies with the process that made it, so that a killed test run leaves nothing behind.
    """

    what = "Redis"

    def __init__(self, port: int = 0, settings: Sequence[str] = ()) -> None:
        self.port = port
        self.password = secrets.token_hex(16)
        self._settings = settings
        self._program = install()
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and return when it takes connections. Raises ServerFailed."""
        if self.running:
            return
        first = self.port == 0
        for attempt in range(3):
            if first:
                with ports(0) as (self.port,):
                    pass
            self._launch()
            try:
                self.wait_ready(lambda: answers(self.port), time.monotonic() + START_TIMEOUT)
                return
            except ServerFailed as e:
                self.kill()
                # Somebody else may have taken the port between our choice and its use.
                if not (first and "in use" in str(e) and attempt < 2):
                    raise

    def stop(self) -> None:
        """Stop in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Have it answer nobody, though it is there, until `resume`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it answer again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> None:
        config = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            f"dir {self.folder}",
            "databases 1000",
            *self._settings,
        ]
        path = self.folder / "redis.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(config) + "\n")
        inside = UNPACKED in self._program.parents
        env = {"PATH": os.defpath, **(libraries(UNPACKED) if inside else {})}
        with self.log.open("wb") as log:
            command = [str(self._program), str(path)]
            self.process = spawn(command, cwd=self.folder, env=env, log=log)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        self.process.kill()
        self.process.wait()
        self.process = None


def answers(port: int) -> bool:
    """Whether a Redis answers a PING, be it that it wants a password."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False


# --- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command_line("Redis", install, lambda port, _: RedisServer(port), 6379, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
