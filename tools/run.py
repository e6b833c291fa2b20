#!/usr/bin/env python3
"""What `make run` runs: the bus on routes/, and the stand-in legacy service beside it.

Ctrl-C or SIGTERM stops both, the bus first, so that what it has in flight can still be delivered;
a second Ctrl-C hurries. The exit status is that of the first one that failed, else 0.

Heeds ESB_HOST, ESB_PORT, ESB_ADMIN_HOST, ESB_ADMIN_PORT, LEGACY_PORT and AMQP_URL.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0


def _setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


LEGACY = f"http://127.0.0.1:{_setting('LEGACY_PORT', '8090')}"
BUS = f"http://{_setting('ESB_HOST', '127.0.0.1')}:{_setting('ESB_PORT', '8080')}"
ADMIN = f"http://{_setting('ESB_ADMIN_HOST', '127.0.0.1')}:{_setting('ESB_ADMIN_PORT', '8081')}"

BANNER = """
  {bus}/partners       a SOAP service as a REST API (the legacy service is on {legacy})
  {bus}/orders         orders: from HTTP into RabbitMQ, and on to the order system
  {bus}/docs           everything that is served, with Swagger UI
  {admin}/readyz         how the bus is; /metrics, /routes, /dead

Try:
  curl {bus}/partners/1
  curl {bus}/partners -H 'Content-Type: application/json' -d '{partner}'
  curl {bus}/orders -H 'Content-Type: application/json' -d '{order}'
"""
PARTNER = (
    '{"name": "Acme", "status": "active", "creditLimit": "1000.00", '
    '"address": {"city": "Vienna", "country": "AT"}}'
)
ORDER = '{"number": "A-1", "customer": 1, "lines": [{"sku": "M8", "quantity": 100, "price": 0.12}]}'


class Processes:
    """The children, each in a session of its own, so that Ctrl-C reaches them through us alone."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []
        self.asked = threading.Event()

    def start(self, *command: str, **environment: str) -> None:
        """Start one more; it ends with us, however we end."""
        self.running.append(
            subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        )

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal begins to stop, a second one hurries."""
        if self.asked.is_set():
            for process in self.running:
                process.terminate()
        self.asked.set()

    def alive(self) -> bool:
        """Whether all are running and nobody asked to stop."""
        return not self.asked.is_set() and all(p.poll() is None for p in self.running)

    def stop(self) -> int:
        """Stop those that are left, the last one first; the first status that is not 0, or 0."""
        ended = [p.returncode for p in self.running if p.poll() is not None]
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
            while process.poll() is None:
                # In short waits, so that a second signal gets through.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        # Whoever ended by himself is the reason that the others had to.
        statuses = ended or [p.returncode for p in self.running]
        return next((abs(status) for status in statuses if status), 0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _answer(url: str) -> Any:
    """What `url` answers, or None."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _ready(processes: Processes, urls: list[str]) -> Any:
    """Wait until all `urls` answer; the answer of the last, None if a process ended before."""
    deadline = time.monotonic() + START_TIMEOUT
    for url in urls:
        while (answer := _answer(url)) is None:
            if not processes.alive():
                return None
            if time.monotonic() > deadline:
                print(f"{url} did not answer in {START_TIMEOUT:.0f} s", file=sys.stderr)
                return None
            processes.asked.wait(0.03)
    return answer


def main() -> int:
    """Run both until a signal comes or one of them ends."""
    processes = Processes()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, processes.on_signal)
    esb = str(Path(sys.executable).with_name("esb"))
    processes.start(sys.executable, "examples/legacy/server.py")
    processes.start(esb, "run", "routes", LEGACY_URL=_setting("LEGACY_URL", LEGACY))
    health = _ready(processes, [f"{LEGACY}/health", f"{ADMIN}/readyz"])
    if health is None:
        return processes.stop() or int(not processes.asked.is_set())
    print(BANNER.format(bus=BUS, legacy=LEGACY, admin=ADMIN, partner=PARTNER, order=ORDER))
    for route, reason in health.get("waiting", {}).items():
        print(f"  {route} waits: {reason}")
    sys.stdout.flush()
    while processes.alive():
        processes.asked.wait(0.3)
    for name, process in zip(("the legacy service", "the bus"), processes.running, strict=True):
        if process.poll() is not None and not processes.asked.is_set():
            how = f"status {process.returncode}" if process.returncode >= 0 else "a signal"
            print(f"{name} ended by itself, with {how}", file=sys.stderr, flush=True)
    return processes.stop()


if __name__ == "__main__":
    sys.exit(main())
