"""A key-value server that answers as the documented API of Vault and OpenBao does: log-ins, tokens
that end, KV version 1 and 2, namespaces, refusals, and being sealed. It fails on request and counts
what it is asked; `test_vault_server.py` asks a real one.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2, .../auth/approle, .../auth/token
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

ROLE, SECRET_ID, JWT = "role-of-the-bus", "the-secret-id", "token-of-the-pod"


class FakeVault:
    """kv2, kv1: secrets by mount and path. tokens: those that are valid. asked: requests, in their
    order. namespace: the one all is in."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kv2: dict[str, dict[str, Any]] = {}
        self.kv1: dict[str, dict[str, Any]] = {}
        self.tokens = {"root-token"}
        self.forbidden: set[str] = set()
        self.sealed = False
        self.secret_id = SECRET_ID
        self.lease = 3600
        self.renewable = True
        self.namespace = ""
        self.asked: list[str] = []
        self._numbers = count(1)

    def answer(
        self, method: str, path: str, token: str, namespace: str, body: Any
    ) -> tuple[int, Any]:
        """Status and body."""
        self.asked.append(f"{method} {path}")
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if namespace != self.namespace:
            return 404, {"errors": ["no handler for route"]}
        if method == "POST" and path == "/v1/auth/approle/login":
            if (body["role_id"], body["secret_id"]) != (ROLE, self.secret_id):
                return 400, {"errors": ["invalid role or secret ID"]}
            return self._auth(self._token())
        if method == "POST" and path == "/v1/auth/kubernetes/login":
            if body["jwt"] != JWT:
                return 403, {"errors": ["permission denied"]}
            return self._auth(self._token())
        if token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if method == "POST" and path == "/v1/auth/token/renew-self":
            return self._auth(token) if self.renewable else (
                400, {"errors": ["lease is not renewable"]})  # fmt: skip
        place = path.removeprefix("/v1/")
        if place.replace("/data/", "/") in self.forbidden:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if place in self.kv1:
            return 200, {"data": self.kv1[place], "lease_duration": 2764800}
        if (at := place.replace("/data/", "/", 1)) != place and at in self.kv2:
            data = self.kv2[at]
            if data is None:  # its last version was deleted
                gone = {"deletion_time": "2026-01-01T00:00:00Z", "version": 1}
                return 404, {"data": {"data": None, "metadata": gone}}
            return 200, {"data": {"data": data, "metadata": {"version": 1, "deletion_time": ""}}}
        return 404, {"errors": []}

    def _token(self) -> str:
        made = f"hvs.{next(self._numbers)}"
        self.tokens.add(made)
        return made

    def _auth(self, token: str) -> tuple[int, Any]:
        auth = {"client_token": token, "lease_duration": self.lease, "renewable": self.renewable}
        return 200, {"auth": auth}


@contextmanager
def fake_vault() -> Iterator[FakeVault]:
    """One that listens on this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, told = vault.answer(
                self.command, self.path.partition("?")[0],
                self.headers.get("X-Vault-Token", ""), self.headers.get("X-Vault-Namespace", ""),
                json.loads(raw) if raw else None,
            )  # fmt: skip
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = _reply  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vault = FakeVault(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
