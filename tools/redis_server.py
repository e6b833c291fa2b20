#!/usr/bin/env python3
"""A private Redis: for tests and for trying the bus, as root or not, never as a system service.

    python3 tools/redis_server.py install             unpack Debian's packages into .tools/redis/
    python3 tools/redis_server.py run [--port 6379]   run one in the foreground; it keeps nothing

One that the system has is used as it is. Standard library only, because this runs before there is a
virtual environment. (Not `redis.py`: that is the name of the client library.)
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from servers import TOOLS, Apt, CannotInstall, libraries, ports, spawn, unpack

UNPACKED = TOOLS / "redis"
PACKAGES = ("redis-server", "redis-tools")
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class RedisFailed(Exception):
    """The server ended or did not answer in time; the text has the end of its log."""


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


class RedisServer:
    """One server on 127.0.0.1 with its own password and port, which keeps nothing on a disk.

    port: a free one if 0. It stays the same over restarts.
    settings: more of redis.conf.

    It dies with the process that made it, so that a killed test run leaves nothing behind.
    """

    def __init__(self, port: int = 0, settings: Sequence[str] = ()) -> None:
        self.port = port
        self.password = secrets.token_hex(16)
        self._settings = settings
        self._program = install()
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._server is not None and self._server.poll() is None

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it and return when it takes connections. Raises RedisFailed."""
        if self.running:
            return
        first = self.port == 0
        for attempt in range(3):
            if first:
                with ports(0) as (self.port,):
                    pass
            self._launch()
            try:
                self._wait_ready()
                return
            except RedisFailed as e:
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
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it answer again."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        config = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            f"dir {self._folder}",
            "databases 1000",
            *self._settings,
        ]
        path = self._folder / "redis.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(config) + "\n")
        inside = UNPACKED in self._program.parents
        env = {"PATH": os.defpath, **(libraries(UNPACKED) if inside else {})}
        with (self._folder / "log.txt").open("wb") as log:
            command = [str(self._program), str(path)]
            self._server = spawn(command, cwd=self._folder, env=env, log=log)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(self.port):
            log = (self._folder / "log.txt").read_text(errors="replace")[-3000:]
            if not self.running:
                raise RedisFailed(f"Redis ended while starting:\n{log}")
            if time.monotonic() > deadline:
                raise RedisFailed(f"Redis does not answer:\n{log}")
            time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        if self._server is None:
            return
        self._server.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(STOP_TIMEOUT)
        self._server.kill()
        self._server.wait()
        self._server = None


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
    parser = argparse.ArgumentParser(description="A private Redis for tests and first tries.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="unpack Debian's Redis into .tools/ if it is missing")
    run = commands.add_parser("run", help="run a server in the foreground until Ctrl-C")
    run.add_argument("--port", type=int, default=6379, help="its port (6379; 0 takes a free one)")
    args = parser.parse_args(argv)
    try:
        if args.command == "install":
            install()
            return 0
        return _run(args.port)
    except (CannotInstall, RedisFailed) as e:
        print(f"redis: {e}", file=sys.stderr)
        return 1


def _run(port: int) -> int:
    asked = threading.Event()
    for how in (signal.SIGINT, signal.SIGTERM):
        signal.signal(how, lambda *_: asked.set())
    with RedisServer(port) as server:
        print(f"redis: {server.url} (Ctrl-C stops it)", flush=True)
        while server.running and not asked.wait(0.2):
            pass
        ended = not server.running
    if ended:
        print("redis: the server ended by itself", file=sys.stderr)
    return int(ended)


if __name__ == "__main__":
    sys.exit(main())
