"""Signatures of bodies: the forms that webhooks have, against values that are not ours."""

from __future__ import annotations

import pytest

from esb.signing import BadSignature, Form, sign, verify

FORMS: tuple[Form, ...] = ("github", "stripe", "hex", "base64")

# RFC 4231, test case 2; GitHub's own example in "Validating webhook deliveries".
RFC = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
GITHUB = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_values_of_others() -> None:
    assert sign("hex", b"Jefe", [b"what do ya want ", b"for nothing?"], 0) == RFC
    assert sign("github", b"It's a Secret to Everybody", [b"Hello, World!"], 0) == GITHUB


@pytest.mark.parametrize("form", FORMS)
def test_what_is_signed_is_verified_and_nothing_else(form: Form) -> None:
    value = sign(form, b"key", [b"bo", b"dy"], 1000.7)
    kept = {"now": 1000.0, "tolerance": 300.0}
    signed = verify(form, [b"new", b"key"], value, [b"body"], **kept)
    assert signed.time == (1000 if form == "stripe" else None)
    for secret, body in ((b"other", b"body"), (b"key", b"bodY"), (b"key", b"")):
        with pytest.raises(BadSignature):
            verify(form, [secret], value, [body], **kept)
    for wrong in ("", "x", value[:-2], value + "00", f"sha1={RFC}", "é" * 9, value * 40):
        with pytest.raises(BadSignature):
            verify(form, [b"key"], wrong, [b"body"], **kept)


def test_a_time_is_signed_and_kept_to() -> None:
    value = sign("stripe", b"key", [b"body"], 1000)
    for now in (600.0, 1400.0):
        with pytest.raises(BadSignature, match="too old"):
            verify("stripe", [b"key"], value, [b"body"], now=now, tolerance=300)
    forged = value.replace("t=1000", "t=1400")
    with pytest.raises(BadSignature, match="not one of this body"):
        verify("stripe", [b"key"], forged, [b"body"], now=1400, tolerance=300)
    rotated = f"t=1000,v1={'0' * 64},{value.partition(',')[2]},v0=00"
    assert verify("stripe", [b"key"], rotated, [b"body"], now=1000, tolerance=300).time == 1000
    with pytest.raises(BadSignature):
        verify("stripe", [b"key"], f"t=1000,{value}", [b"body"], now=1000, tolerance=300)
