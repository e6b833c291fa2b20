"""TLS of the listener, with files that are renewed while it runs, as by cert-manager or certbot."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from esb.clock import current

log = structlog.get_logger("esb.web")

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the files."""


class Files(NamedTuple):
    """Where the certificate, its key and the authorities of callers are. required: whether every
    caller must show a certificate of theirs."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True


class Renewed:
    """What handshakes go by. Those that begin after the files have changed go by the new ones; if
    these cannot be used, as while one of them is written, by those before.

    Raises OSError, ssl.SSLError or ValueError for files that cannot be used.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._stamp = self._look()
        self.context = self._now = _made(files)
        self._next = current.get().monotonic() + LOOK_EVERY
        self._changed = 0.0
        self.context.sni_callback = self._begins

    def _begins(
        self, connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext
    ) -> int | None:
        """A handshake begins, with a name or without one."""
        now = current.get().monotonic()
        if now >= self._next:
            self._next = now + LOOK_EVERY
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._again()
        if self._now is not first:
            before = connection.session if connection.session_reused else None
            if before is not None and before.time <= self._changed and self._files.client_ca:
                # Taken up again it shows no certificate, and whoever signed that may be out by now.
                return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
            connection.context = self._now
        return None

    def _again(self) -> None:
        try:
            self._now = _made(self._files)
            self._changed = current.get().time()
        except (OSError, ValueError) as e:
            log.error("the files of listen.tls cannot be used: what they held before stays",
                      why=str(e))  # fmt: skip
        else:
            log.info("the files of listen.tls were read again")

    def _look(self) -> list[tuple[int, int, int]]:
        stamps = []
        for file in (self._files.cert, self._files.key, self._files.client_ca):
            try:
                found = file.stat() if file is not None else None
            except OSError:
                found = None
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino) if found else (0, 0, 0))
        return stamps


def _made(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(files.cert, files.key, password=lambda: "")
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
    return context
