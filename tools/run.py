"""`make run`: the stand-in legacy service in a process of its own, and the bus in front of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run both until Ctrl-C or SIGTERM; 0 if both ended in order."""
    port = int(os.environ.setdefault("ESB_PORT", "8080"))
    admin = int(os.environ.setdefault("ESB_ADMIN_PORT", "8081"))
    legacy = int(os.environ.setdefault("LEGACY_PORT", "8090"))
    os.environ.setdefault("LEGACY_URL", f"http://127.0.0.1:{legacy}/partner")
    os.environ.setdefault("ORDER_DESK_URL", f"http://127.0.0.1:{port}/desk")
    for what, number in (("ESB_PORT", port), ("ESB_ADMIN_PORT", admin), ("LEGACY_PORT", legacy)):
        if taken(number):
            print(f"port {number} is in use; set {what} to a free one", file=sys.stderr)
            return 1
    python = sys.executable
    esb = str(Path(python).with_name("esb"))
    commands = [[python, "examples/legacy/server.py"], [esb, "run", "routes"]]
    # Sessions of their own: Ctrl-C reaches only this process, which ends them in order.
    running = [
        subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
        for command in commands
    ]
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        running[1].send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    told = False
    while all(process.poll() is None for process in running):
        if not told and not stopping and ready(admin):
            told = True
            tell(port, admin, legacy)
        time.sleep(0.05 if not told else 0.2)
    for process in reversed(running):  # the bus first: it may still be asking the other
        if process.poll() is None and process is not running[1]:
            process.terminate()
        elif process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    return 0 if stopping and running[1].returncode == 0 else running[1].returncode or 1


def taken(port: int) -> bool:
    """Whether something listens on that port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def ready(admin: int) -> bool:
    """Whether the bus says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1) as answer:
            return bool(json.load(answer)["status"] in ("ok", "degraded"))
    except (OSError, ValueError, urllib.error.URLError):
        return False


def tell(port: int, admin: int, legacy: int) -> None:
    """What is served, and what to try."""
    bus = f"http://127.0.0.1:{port}"
    print(
        f"""
  {bus}/partners/docs   the legacy SOAP service as a REST API, with Swagger UI
  {bus}/orders          takes orders into RabbitMQ, if there is one
  http://127.0.0.1:{admin}/metrics        health and metrics: /healthz /readyz /metrics
  http://127.0.0.1:{legacy}/partner?wsdl   the legacy service itself

  curl {bus}/partners/1
  curl {bus}/partners -H 'content-type: application/json' \\
       -d '{{"partner": {{"name": "New Ltd", "kind": "CUSTOMER", "country": "GB"}}}}'
  curl -i {bus}/partners/999

  Ctrl-C stops.
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
