"""Certificates of callers that are not good, over real TLS: what no library would issue."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.bus import running, url
from support.web import wire

from esb import renewed

TEXT = """
auth: {machines: {mtls: {names: [press]}}}
listen:
  port: 0
  tls: {cert: cert.pem, key: key.pem, client_ca: callers.pem}
routes:
  who:
    from: {http: {path: /who, method: GET, auth: machines}}
    steps: [{set: {body: message.principal}}]
"""
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Authority:
    """Whoever signs. above: who signed this one's own."""

    def __init__(self, name: str = "callers", above: Authority | None = None, **made: Any) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = above or self
        self.cert = by.sign(self.key, self.name, authority=True, **made)

    def sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: x509.Name,
        *,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + DAY,
        use: x509.ObjectIdentifier | None = None,
        also: str = "",
        authority: bool = False,
    ) -> x509.Certificate:
        """A certificate. use: what it is for. also: another name. authority: may it sign."""
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if use is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        if also:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(also)]), False)
        return made.sign(self.key, hashes.SHA256())

    def shown(self, folder: Path, *names: str, key: Any = None, **made: Any) -> ssl.SSLContext:
        """What a caller with a certificate of this authority connects by."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
        chain = [self.sign(own, subject, **made), self.cert]
        return context(folder, own, chain)


def pem(path: Path, *parts: x509.Certificate | ec.EllipticCurvePrivateKey) -> Path:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        b"".join(
            one.public_bytes(encoding)
            if isinstance(one, x509.Certificate)
            else one.private_bytes(encoding, form, serialization.NoEncryption())
            for one in parts
        )
    )
    return path


def context(
    folder: Path, key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]
) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=folder / "cert.pem")
    made.load_cert_chain(pem(folder / "shown.pem", key, *chain))
    return made


@pytest.fixture
def callers(tmp_path: Path) -> Authority:
    """Who signs the certificates of callers; the listener's own is in the folder as well."""
    listener = Authority("listener")
    own = listener.sign(listener.key, listener.name, authority=True, also="localhost")
    pem(tmp_path / "cert.pem", own)
    pem(tmp_path / "key.pem", listener.key)
    found = Authority()
    pem(tmp_path / "callers.pem", found.cert)
    return found


async def asked(address: str, shown: ssl.SSLContext) -> int:
    """The status; 0 if there was no connection, as far as TLS 1.3 tells the caller of that."""
    try:
        async with wire(address.replace("127.0.0.1", "localhost"), shown) as one:
            await one.send(b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return (await one.answer())[0]
    except (ssl.SSLError, ConnectionError, EOFError):
        return 0


def _by_a_leaf(callers: Authority, folder: Path) -> ssl.SSLContext:
    """Signed by somebody who has a certificate, and is no authority."""
    leaf = Authority("press")
    leaf.cert = callers.sign(leaf.key, leaf.name)
    own = ec.generate_private_key(ec.SECP256R1())
    return context(folder, own, [leaf.sign(own, leaf.name), leaf.cert, callers.cert])


SHOWN: dict[str, tuple[int, Callable[[Authority, Path], ssl.SSLContext]]] = {
    "a good one": (200, lambda by, at: by.shown(at, "press")),
    "one for callers": (
        200, lambda by, at: by.shown(at, "press", use=ExtendedKeyUsageOID.CLIENT_AUTH)
    ),
    "one that is over": (0, lambda by, at: by.shown(at, "press", ends=NOW - DAY / 2)),
    "one that is not good yet": (0, lambda by, at: by.shown(at, "press", begins=NOW + DAY / 2)),
    "one for servers": (
        0, lambda by, at: by.shown(at, "press", use=ExtendedKeyUsageOID.SERVER_AUTH)
    ),
    "one for code": (0, lambda by, at: by.shown(at, "press", use=ExtendedKeyUsageOID.CODE_SIGNING)),
    "one of somebody of the same name": (0, lambda by, at: Authority().shown(at, "press")),
    "one of a leaf": (0, _by_a_leaf),
    "one of an authority that is over": (
        0, lambda by, at: Authority("below", by, ends=NOW - DAY / 2).shown(at, "press")
    ),
    "one of an authority below": (200, lambda by, at: Authority("below", by).shown(at, "press")),
    "no common name": (401, lambda by, at: by.shown(at, also="press")),
    "another common name": (401, lambda by, at: by.shown(at, "lathe", also="press")),
    "a wildcard": (401, lambda by, at: by.shown(at, "*")),
    "capital letters": (401, lambda by, at: by.shown(at, "PRESS")),
    "a space behind": (401, lambda by, at: by.shown(at, "press ")),
    "a NUL behind": (401, lambda by, at: by.shown(at, "press\0.evil.example")),
    "a letter of another alphabet": (401, lambda by, at: by.shown(at, "pr\u0435ss")),
    "two common names": (401, lambda by, at: by.shown(at, "lathe", "press")),
    "two common names, the good one first": (401, lambda by, at: by.shown(at, "press", "lathe")),
}  # fmt: skip


async def test_who_shows_what(tmp_path: Path, callers: Authority) -> None:
    async with running(TEXT, tmp_path) as bus:
        for what, (status, make) in SHOWN.items():
            assert await asked(url(bus), make(callers, tmp_path)) == status, what


async def test_where_every_certificate_will_do_one_of_two_names_is_nobodys(
    tmp_path: Path, callers: Authority
) -> None:
    text = TEXT.replace("auth: {machines: {mtls: {names: [press]}}}\n", "")
    text = text.replace(", auth: machines}}", "}}\n    allow: {principals: [press]}")
    async with running(text, tmp_path) as bus:
        for status, names in (
            (200, ["press"]),
            (403, ["lathe"]),
            (401, ["press", "lathe"]),
            (401, ["lathe", "press"]),
        ):
            assert await asked(url(bus), callers.shown(tmp_path, *names)) == status, names


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_was_let_in_before_the_authorities_changed_is_looked_at_again(
    version: ssl.TLSVersion, tmp_path: Path, callers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is taken up again shows no certificate."""
    monkeypatch.setattr(renewed, "LOOK_EVERY", 0.0)
    async with running(TEXT, tmp_path) as bus:
        port = urlsplit(url(bus)).port

        def again(by: Authority) -> ssl.SSLContext:
            made = by.shown(tmp_path, "press")
            made.minimum_version = made.maximum_version = version
            return made

        shown = again(callers)
        session, answer = await asyncio.to_thread(_taken_up, port, shown, None)
        assert b" 200 " in answer
        _, answer = await asyncio.to_thread(_taken_up, port, shown, session)
        assert b" 200 " in answer
        other = Authority()
        pem(tmp_path / "callers.pem", other.cert)
        with contextlib.suppress(OSError):
            _, answer = await asyncio.to_thread(_taken_up, port, shown, session)
            assert answer == b""
        assert b" 200 " in (await asyncio.to_thread(_taken_up, port, again(other), None))[1]


def _taken_up(
    port: int | None, shown: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bytes]:
    """The session of a connection, which takes up another if there is one, and what it read."""
    with (
        socket.create_connection(("localhost", port), timeout=10) as raw,
        shown.wrap_socket(raw, server_hostname="localhost", session=session) as one,
    ):
        one.sendall(b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := one.recv(65536):
            answer += piece
        return one.session, answer
