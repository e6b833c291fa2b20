"""What stands behind the contestants: first a witness that looks at what arrives, then nginx."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nginx
from processes import BenchFailed, Process, running, until
from scenarios import Scenario


class Witness(ThreadingHTTPServer):
    """Answers as the backend will, and remembers what came last: path and body."""

    daemon_threads = True

    def __init__(self, port: int, scenario: Scenario) -> None:
        self.came: tuple[str, bytes] | None = None
        self._answers = scenario.answers
        super().__init__(("127.0.0.1", port), _Asked)

    def answer(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body for a request."""
        self.came = path, body
        kind, content = self._answers.get(path, ("text/plain", b"nothing is here"))
        return (404 if path not in self._answers else 200 if content else 204), kind, content


class _Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Witness

    def do_POST(self) -> None:
        """Whatever is asked."""
        body = self._chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(
            int(self.headers.get("Content-Length", 0))
        )  # fmt: skip
        status, kind, content = self.server.answer(self.path, body)
        self.send_response(status)
        # A connection kept alive would outlast the witness, and nginx takes its place.
        self.send_header("Connection", "close")
        if content:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST  # noqa: N815 - named by the library

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def witness(port: int, scenario: Scenario) -> Iterator[Witness]:
    """A witness that listens on `port`; its connections are closed at the end."""
    server = Witness(port, scenario)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def backend(
    port: int, scenario: Scenario, core: int, folder: Path
) -> Iterator[tuple[Process, nginx.Counter]]:
    """nginx on `port`, and how many requests it has answered. Raises BenchFailed."""
    command = nginx.write_backend(folder / "backend", port, scenario.answers)
    with running(Process(command, core, folder / "backend.txt")) as process:
        delivered = nginx.Counter(port)

        def answers() -> bool:
            process.alive()
            try:
                return delivered() >= 0
            except (OSError, BenchFailed):
                return False

        until(answers, "the backend answers")
        yield process, delivered
