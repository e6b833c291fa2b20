"""Signatures of bodies by a shared secret, as a header carries them: HMAC with SHA-256 (RFC 2104),
in the forms that webhooks have.

    github    sha256=<hex>          over the body (X-Hub-Signature-256)
    stripe    t=<time>,v1=<hex>     over "<time>.<body>" (Stripe-Signature); several v1 may stand
                                    there while a secret is replaced
    hex       <hex>                 over the body
    base64    <base64>              over the body (Shopify, Square)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

Form = Literal["github", "stripe", "hex", "base64"]
"""How a signature is written."""

_LONGEST: Final = 1024  # characters of a header that is looked at
_MOST: Final = 8  # signatures in one


class BadSignature(ValueError):
    """A signature that is none of this body: str tells operators why, and no value."""


class Signed(NamedTuple):
    """A signature that was found to be right. time: when it was made, if it says so."""

    signature: bytes
    time: float | None = None


def sign(form: Form, secret: bytes, body: Iterable[bytes], now: float) -> str:
    """The header's value. now: seconds since 1970, which only `stripe` writes."""
    if form == "stripe":
        made = _digest(secret, f"{int(now)}.".encode(), body)
        return f"t={int(now)},v1={made.hex()}"
    made = _digest(secret, b"", body)
    if form == "base64":
        return base64.b64encode(made).decode()
    return ("sha256=" if form == "github" else "") + made.hex()


def verify(
    form: Form,
    secrets: Sequence[bytes],
    value: str,
    body: Iterable[bytes],
    *,
    now: float,
    tolerance: float,
) -> Signed:
    """The signature that a header holds, if one of the secrets made it. Each is compared in a time
    that does not tell how much of it is right.

    tolerance: seconds that a time in it may lie before or after `now`. Raises BadSignature.
    """
    told, time = _read(form, value)
    if time is not None and abs(now - time) > tolerance:
        raise BadSignature("the signature is too old, or from the future")
    pieces = list(body)
    prefix = b"" if time is None else f"{time}.".encode()
    for secret in secrets:
        made = _digest(secret, prefix, pieces)
        for one in told:
            if hmac.compare_digest(one, made):
                return Signed(made, time)
    raise BadSignature("the signature is not one of this body")


def _digest(secret: bytes, prefix: bytes, body: Iterable[bytes]) -> bytes:
    made = hmac.new(secret, prefix, hashlib.sha256)
    for piece in body:
        made.update(piece)
    return made.digest()


def _read(form: Form, value: str) -> tuple[list[bytes], int | None]:
    """The signatures in a header's value, and the time."""
    value = value.strip()
    if len(value) > _LONGEST or not value.isascii():
        raise BadSignature("the signature is malformed")
    try:
        if form == "stripe":
            pairs = [item.strip().partition("=")[::2] for item in value.split(",")]
            times = [text for name, text in pairs if name == "t"]
            if len(times) != 1 or not times[0].isdigit() or len(times[0]) > 12:
                raise BadSignature("the signature has no time")
            return [bytes.fromhex(v) for n, v in pairs if n == "v1"][:_MOST], int(times[0])
        if form == "base64":
            return [base64.b64decode(value, validate=True)], None
        if form == "github" and not value.startswith("sha256="):
            raise BadSignature("the signature is malformed")
        return [bytes.fromhex(value.removeprefix("sha256=") if form == "github" else value)], None
    except (binascii.Error, ValueError) as e:
        raise (
            e if isinstance(e, BadSignature) else BadSignature("the signature is malformed")
        ) from e
