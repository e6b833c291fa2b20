#!/usr/bin/env python3
"""A stand-in for a service with a login of its own, for this example: it knows nothing of the bus.

python3 examples/outbound-oauth/server.py [--port 8095]

POST /oauth2/token   a token for ten seconds, for client "bus" and its secret (RFC 6749, 4.4)
POST /orders         takes an order from who shows a token that lasts;  GET /orders lists them
POST /revoke         all tokens are over
POST /hook           takes what is signed with the secret (X-Hub-Signature-256)
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

CLIENT_SECRET = os.environ.get("ORDERS_CLIENT_SECRET", "only-to-try-it")
HOOK_SECRET = os.environ.get("HOOK_SECRET", "only-to-try-it")
LASTS = 10

tokens: dict[str, float] = {}
orders: list[object] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"orders": orders, "tokens": len(tokens)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/oauth2/token":
            self._token(parse_qs(body.decode()))
        elif self.path == "/revoke":
            tokens.update(dict.fromkeys(tokens, 0.0))
            self._answer(200, {})
        elif self.path == "/orders":
            kind, _, token = self.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or tokens.get(token, 0.0) < time.monotonic():
                self._answer(401, {"error": "invalid_token"})
                return
            orders.append(json.loads(body))
            self._answer(201, {"number": len(orders)})
        elif self.path == "/hook":
            made = hmac.new(HOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
            right = hmac.compare_digest(
                self.headers.get("X-Hub-Signature-256", ""), f"sha256={made}"
            )
            self._answer(200 if right else 403, {})
        else:
            self._answer(404, {})

    def _token(self, form: dict[str, list[str]]) -> None:
        shown = base64.b64encode(f"bus:{CLIENT_SECRET}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {shown}":
            self._answer(401, {"error": "invalid_client"})
        elif form.get("grant_type") != ["client_credentials"]:
            self._answer(400, {"error": "unsupported_grant_type"})
        else:
            token = secrets.token_urlsafe()
            tokens[token] = time.monotonic() + LASTS
            given = {"access_token": token, "token_type": "Bearer", "expires_in": LASTS}
            self._answer(200, given)

    def _answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.command} {self.path}: {args[1]}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8095)
    options = parser.parse_args()
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on http://{options.host}:{server.server_port}", file=sys.stderr)
    server.serve_forever()


if __name__ == "__main__":
    main()
