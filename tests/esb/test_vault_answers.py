"""What a vault, or whoever is in its place, may answer besides secrets: a real one cannot be made
to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from esb.vault import Vault, VaultOptions

MIB = 1024 * 1024


class Odd(BaseHTTPRequestHandler):
    """Answers in the way that the path names."""

    protocol_version = "HTTP/1.1"
    asked: list[str]
    gone: threading.Event

    def do_GET(self) -> None:
        way = self.path.rpartition("/")[2]
        self.asked.append(way)
        self.send_response(307 if way == "standby" else 200)
        self.send_header("Content-Type", "application/json")
        if way == "standby":
            self.send_header("Location", f"http://{self.headers['Host']}/v1/kv/data/elsewhere")
        chunked = way in ("endless", "dripping")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        body = b"" if way == "standby" else b'{"data": {"data": {"a": "%b"}}}' % (b"x" * 3 * MIB)
        self.send_header("Content-Length", str(len(body) + (way == "cut"))) if not chunked else None
        self.end_headers()
        try:
            if not chunked:
                self.wfile.write(body)
                self.close_connection = way == "cut"
            while chunked:
                part = b" " * (1 if way == "dripping" else MIB)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                if way == "dripping" and self.gone.wait(0.01):
                    return
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def odd() -> Iterator[tuple[str, list[str]]]:
    """The address of one, and what it was asked."""
    asked: list[str] = []
    gone = threading.Event()
    handler = type("Handler", (Odd,), {"asked": asked, "gone": gone})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        gone.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("way", "timeout", "told"),
    [
        ("endless", "30s", "the vault's answer is too large for a secret"),
        ("dripping", "200ms", "the vault's answer does not come to an end in time"),
        ("standby", "30s", "the vault sends to another address, which is not followed"),
        ("cut", "30s", r"the vault cannot be reached \(ConnectionError\)"),
    ],
)
def test_what_is_no_answer_of_a_vault_is_not_read_on(
    odd: tuple[str, list[str]], way: str, timeout: str, told: str
) -> None:
    url, asked = odd
    options = VaultOptions.model_validate({"url": url, "token": "t" * 9, "timeout": timeout})
    with pytest.raises(ValueError, match=told):
        Vault(options, Path()).read(f"kv/{way}", "a")
    assert asked == [way]


def test_a_large_secret_is_read(odd: tuple[str, list[str]]) -> None:
    options = VaultOptions.model_validate({"url": odd[0], "token": "t" * 9})
    assert len(Vault(options, Path()).read("kv/large", "a")) == 3 * MIB
