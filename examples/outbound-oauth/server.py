#!/usr/bin/env python3
"""A stand-in for a service with a login of its own, for this example: it knows nothing of the bus.

python3 examples/outbound-oauth/server.py [--port 8095]

POST /oauth2/token   a token for ten seconds, for client "bus" and its secret (RFC 6749, 4.4)
POST /orders         takes an order from who shows a token that lasts;  GET /orders lists them
POST /revoke         all tokens are over
POST /hook           takes what is signed with the secret (X-Hub-Signature-256)
GET  /guarded/WAY    takes who shows the right basic, bearer, api_key or aws_sigv4 for "bus"
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import sys
import time
from email.message import Message
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
        way = self.path.removeprefix("/guarded/")
        if way == self.path:
            self._answer(200, {"orders": orders, "tokens": len(tokens)})
        elif self._shows(way):
            self._answer(200, {"shown": way})
        else:
            self._answer(401, {"error": f"this is no {way} of the bus"})

    def _shows(self, way: str) -> bool:
        shown = self.headers.get("X-API-Key" if way == "api_key" else "Authorization", "")
        wanted = {
            "basic": f"Basic {_BASIC}",
            "bearer": f"Bearer {CLIENT_SECRET}",
            "api_key": CLIENT_SECRET,
        }
        if way == "aws_sigv4":
            return hmac.compare_digest(shown, _signature_v4(self.path, self.headers))
        return hmac.compare_digest(shown, wanted.get(way, "nothing is right"))

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
        if self.headers.get("Authorization") != f"Basic {_BASIC}":
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


_BASIC = base64.b64encode(f"bus:{CLIENT_SECRET}".encode()).decode()


def _signature_v4(path: str, headers: Message) -> str:
    """What `Authorization` of a GET has to be by AWS Signature Version 4, for the headers that it
    says are signed: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    found = re.search(r"Credential=bus/(\d{8}/[^,]*), SignedHeaders=([a-z0-9;-]+),",
                      headers.get("Authorization", ""))  # fmt: skip
    if found is None:
        return ""
    scope, signed = found[1], found[2]
    lines = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in signed.split(";"))
    nothing = hashlib.sha256(b"").hexdigest()
    request = f"GET\n{path}\n\n{lines}\n{signed}\n{nothing}"
    moment = headers.get("X-Amz-Date", "")
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{CLIENT_SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    made = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return f"AWS4-HMAC-SHA256 Credential=bus/{scope}, SignedHeaders={signed}, Signature={made}"


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
