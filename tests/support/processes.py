"""Programs as their users run them: in processes of their own, with real signals and ports."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def lasting_ports(count: int) -> list[int]:
    """Ports as `free_ports`, which stay free while their server is away for a moment: the kernel
    takes none of them for the near end of somebody's connection (ip(7), ip_local_port_range)."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            one = held.enter_context(socket.socket())
            port = random.randint(10_000, 32_000)
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
    return found


@dataclass(frozen=True)
class Answer:
    """What came back from an HTTP request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(
    method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request; a body that is no bytes goes as JSON. Raises OSError if nobody answers."""
    head = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        head.setdefault("Content-Type", "application/json")
    asked = urllib.request.Request(url, data=body, method=method, headers=head)
    try:
        with urllib.request.urlopen(asked, timeout=30) as got:
            return Answer(got.status, got.headers, got.read())
    except urllib.error.HTTPError as e:
        return Answer(e.code, e.headers, e.read())


class Process:
    """A program that runs until the `with` block ends, at the latest."""

    def __init__(
        self, command: Sequence[str | Path], *, cwd: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return os.pread(self._output.fileno(), 10_000_000, 0).decode(errors="replace")

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        if error is not None:
            error.add_note(f"the program wrote:\n{self.output[-5000:]}")
        self._output.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit status once it has ended, minus the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL to it and to those it has started, which a tracer would leave behind; its end."""
        with contextlib.suppress(OSError):
            for child in self.children:
                os.kill(child, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    @property
    def children(self) -> list[int]:
        """The processes that it has started, the oldest first."""
        pid = self._process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for it to end; its exit status."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self._process.terminate()
        return self.wait()

    def until(self, condition: Callable[[], Any], what: str = "", timeout: float = 30.0) -> Any:
        """What `condition` returns once it is true; a refused connection counts as not yet."""
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if found := condition():
                    return found
            assert self._process.poll() is None, f"the program has ended: {self.output[-3000:]}"
            assert time.monotonic() < end, f"not in time: {what or condition}"
            time.sleep(0.02)

    def wait_for(self, url: str) -> None:
        """Return once `url` answers with a 200."""
        self.until(lambda: request("GET", url).status == 200, url)
