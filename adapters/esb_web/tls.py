"""TLS of the listener, with files that are renewed while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from esb.clock import current
from esb.renewed import Renewed


class Files(NamedTuple):
    """Where the certificate, its key and the authorities of callers are. required: whether every
    caller must show a certificate of theirs."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True


class _Made(NamedTuple):
    """What handshakes go by, and since when."""

    context: ssl.SSLContext
    since: float


class Handshakes:
    """Those that begin after the files have changed go by the new ones. context: for the server.

    Raises OSError, ssl.SSLError or ValueError for files that cannot be used.
    """

    def __init__(self, files: Files) -> None:
        paths = [file for file in (files.cert, files.key, files.client_ca) if file is not None]
        self._renewed = Renewed(
            "listen.tls",
            paths,
            lambda: _Made(_context(files), 0.0),
            lambda: _Made(_context(files), current.get().time()),
        )
        self.context = self._renewed.content.context
        self._asks = files.client_ca is not None
        self.context.sni_callback = self._begins

    def _begins(
        self, connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext
    ) -> int | None:
        """A handshake begins, with a name or without one."""
        made = self._renewed.content
        if made.context is not first:
            before = connection.session if connection.session_reused else None
            if before is not None and before.time <= made.since and self._asks:
                # Taken up again it shows no certificate, and whoever signed that may be out by now.
                return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
            connection.context = made.context
        return None


def _context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(files.cert, files.key, password=lambda: "")
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
    return context
