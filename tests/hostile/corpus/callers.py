"""Callers who are not whom they say: keys, passwords and signatures of bodies. Who is let in reaches
the backend, and must not."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from collections.abc import Sequence

from hostile.case import Case, Raw

REACHED = rb"POST /reached"
ANN = ("X-API-Key", "key-of-ann")
BOB = ("X-API-Key", "key-of-bob")

_HOOKS = b"a secret of hooks"
_ADDRESSES = itertools.count(1)

Headers = Sequence[tuple[str, str]]


def here() -> tuple[str, str]:
    """An address of its own, as the proxy tells it: who fails often has to wait, and each input is
    to be judged by itself."""
    return ("X-Forwarded-For", f"2001:db8:{next(_ADDRESSES):x}::1")


def asked(path: str, *headers: tuple[str, str], method: str = "POST", body: bytes = b"") -> bytes:
    """A request as bytes, with headers that no client would write."""
    told = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"{method} {path} HTTP/1.1\r\nHost: bus\r\n{told}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def in_turn(*requests: bytes) -> Raw:
    """Several on one connection, of which the last is judged."""
    *before, last = requests
    return Raw(b"".join(before) + last.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


def refused(
    family: str,
    name: str,
    path: str,
    headers: Headers,
    *,
    body: bytes = b"",
    statuses: tuple[int, ...] = (401,),
) -> Case:
    """A request that reaches nothing."""
    wire = in_turn(asked(path, *headers, here(), body=body))
    return Case(family, name, wire, statuses, lacks=REACHED)


def welcome(family: str, name: str, path: str, headers: Headers, *, body: bytes = b"") -> Case:
    """One that is let in: without it, who refuses everybody would stand, too."""
    return Case(
        family, name, in_turn(asked(path, *headers, here(), body=body)), (200,), holds=REACHED
    )


def _keys() -> list[Case]:
    entries: dict[str, Headers] = {
        "none": [],
        "an empty one": [("X-API-Key", "")],
        "one of spaces": [("X-API-Key", "   ")],
        "an unknown one": [("X-API-Key", "key-of-nobody")],
        "the beginning of one": [("X-API-Key", "key-of-an")],
        "more than one": [("X-API-Key", "key-of-ann1")],
        "capital letters": [("X-API-Key", "KEY-OF-ANN")],
        "two in one header": [("X-API-Key", "key-of-ann, key-of-bob")],
        "the same in two headers": [ANN, ANN],
        "a good and a bad one": [ANN, ("X-API-Key", "x")],
        "a bad and a good one": [("X-API-Key", "x"), ANN],
        "a bad one here and a good one there": [("X-API-Key", "x"), ("Authorization", "Bearer key-of-ann")],
        "one that is over": [("X-API-Key", "key-of-eve-expired")],
        "its hash": [("X-API-Key", "ca64daa8b294dc4835d29ca02a6a47427ebc6a225ea3ac2e15f8417fb6601db2")],
        "a letter of another alphabet": [("X-API-Key", "k\xc3\xa9y-of-ann")],
        "bytes that are not UTF-8": [("X-API-Key", "key-of-ann\xff\xfe")],
        "an escape": [("X-API-Key", "key%2Dof%2Dann")],
        "a quoted one": [("X-API-Key", '"key-of-ann"')],
        "a name with it": [("X-API-Key", "ann:key-of-ann")],
        "an injection": [("X-API-Key", "' OR '1'='1")],
        "an object": [("X-API-Key", '{"$ne": null}')],
        "a key of 30 kB": [("X-API-Key", "k" * 30_000)],
        "a header with an underscore": [("X_API_Key", "key-of-ann")],
        "a header with another name": [("Api-Key", "key-of-ann")],
        "a cookie": [("Cookie", "X-API-Key=key-of-ann")],
        "two bearers": [("Authorization", "Bearer key-of-ann"), ("Authorization", "Bearer key-of-ann")],
        "another scheme": [("Authorization", "ApiKey key-of-ann")],
        "a basic one": [("Authorization", "Basic " + base64.b64encode(b"ann:key-of-ann").decode())],
        "a principal of his own": [("X-Principal", "ann"), ("Principal", "ann"), ("X-Remote-User", "ann"), ("X-Forwarded-User", "ann"), ("X-Roles", "clerk")],
    }  # fmt: skip
    found = [refused("keys", name, "/by/key", headers) for name, headers in entries.items()]
    found += [
        refused("keys", "in the query", "/by/key?X-API-Key=key-of-ann&api_key=key-of-ann&apikey=key-of-ann", []),
        refused("keys", "in the path", "/by/key;X-API-Key=key-of-ann", [], statuses=(404,)),
        refused("keys", "a NUL behind it", "/by/key", [("X-API-Key", "key-of-ann\0")], statuses=(400,)),
        refused("keys", "a line behind it", "/by/key", [("X-API-Key", "x\r\n X-API-Key: key-of-ann")], statuses=(400,)),
        refused("keys", "a colon with a space before it", "/by/key", [("X-API-Key ", "key-of-ann")], statuses=(400,)),
        welcome("keys", "a good one", "/by/key", [ANN]),
        welcome("keys", "a good one with spaces around", "/by/key", [("X-API-Key", " \t key-of-ann \t ")]),
        welcome("keys", "a good one as a token", "/by/key", [("Authorization", "Bearer key-of-ann")]),
        Case("keys", "a good one goes no further", in_turn(asked("/by/key", ANN, here())), (200,), holds=REACHED, lacks=rb"key-of-ann"),
        Case("keys", "nor as a token", in_turn(asked("/by/key", ("Authorization", "Bearer key-of-ann"), here())), (200,), holds=REACHED, lacks=rb"key-of-ann"),
        Case("keys", "what he says of himself is not passed on", in_turn(asked("/by/key", ANN, ("X-Remote-User", "root"), ("Remote-User", "root"), ("X-Forwarded-User", "root"), here())), (200,), holds=REACHED, lacks=rb"root"),
    ]  # fmt: skip
    return found


def basic(text: bytes) -> tuple[str, str]:
    """A header with a name and a password."""
    return ("Authorization", f"Basic {base64.b64encode(text).decode()}")


def _passwords() -> list[Case]:
    right = base64.b64encode(b"ada:correct horse").decode()
    entries: dict[str, Headers] = {
        "none": [],
        "nothing behind the scheme": [("Authorization", "Basic")],
        "spaces behind the scheme": [("Authorization", "Basic    ")],
        "no Base64": [("Authorization", "Basic ada:correct horse")],
        "Base64 with a letter too much": [("Authorization", f"Basic {right}!")],
        "Base64 without its end": [("Authorization", f"Basic {right.rstrip('=')[:-1]}")],
        "Base64 of a URL": [("Authorization", "Basic " + base64.urlsafe_b64encode(b"ada:\xff\xfe\xfa?>").decode())],
        "Base64 twice": [basic(right.encode())],
        "no colon": [basic(b"ada")],
        "a colon alone": [basic(b":")],
        "no name": [basic(b":correct horse")],
        "no password": [basic(b"ada:")],
        "another password": [basic(b"ada:wrong horse")],
        "capital letters": [basic(b"ADA:correct horse")],
        "a name with spaces": [basic(b" ada :correct horse")],
        "a name with a NUL": [basic(b"ada\0:correct horse")],
        "a password with a NUL": [basic(b"ada:correct horse\0x")],
        "a line behind": [basic(b"ada:correct horse\n")],
        "the hash": [basic(b"ada:$argon2id$v=19$m=8,t=1,p=1$GcAzz03HNJf/JdrzPTO7iw$pbXQjfkW0IAv2Z5NVm0cK1YVKfyY0IrcZ48TLBq7GMM")],
        "letters of full width": [basic("\uff41\uff44\uff41:correct horse".encode())],
        "a password that only looks like it": [basic("ada:c\u043errect horse".encode())],
        "bytes that are not UTF-8": [basic(b"ada:\xff\xfe")],
        "a password of 20 kB": [basic(b"ada:" + b"x" * 20_000)],
        "a name of 20 kB": [basic(b"a" * 20_000 + b":x")],
        "a name of lines": [basic(b"ada\r\n2026-01-01 [error] root was let in:x")],
        "two headers": [basic(b"ada:correct horse")] * 2,
        "a bad and a good header": [basic(b"ada:x"), basic(b"ada:correct horse")],
        "two in one header": [("Authorization", f"Basic {right}, Basic {right}")],
        "another scheme": [("Authorization", f"Bearer {right}")],
        "a scheme of its own": [("Authorization", f"BasicX {right}")],
        "the proxy's header": [("Proxy-Authorization", f"Basic {right}")],
    }  # fmt: skip
    found = [
        refused("passwords", name, "/by/password", headers) for name, headers in entries.items()
    ]
    found += [
        welcome("passwords", "a good one", "/by/password", [basic(b"ada:correct horse")]),
        Case("passwords", "a good one goes no further", in_turn(asked("/by/password", basic(b"ada:correct horse"), here())), (200,), holds=REACHED, lacks=right.encode()),
        refused("passwords", "in the target", "http://ada:correct%20horse@bus/by/password", [], statuses=(400,)),
    ]  # fmt: skip
    one = [
        asked("/by/password", basic(b"ada-%d:x" % n), ("X-Forwarded-For", "192.0.2.1"))
        for n in range(12)
    ]
    found.append(
        Case("passwords", "eleven names from one address", in_turn(*one), (429,), lacks=REACHED)
    )
    spread = [asked("/by/password", basic(b"grace:x"), here()) for _ in range(12)]
    found.append(
        Case("passwords", "one name from eleven addresses", in_turn(*spread), (429,), lacks=REACHED)
    )
    return found


def _hooks() -> list[Case]:
    body, other, now = b'{"pay": 1}', b'{"pay": 2}', int(time.time())
    right = hmac.new(_HOOKS, body, hashlib.sha256)
    hexed, based = right.hexdigest(), base64.b64encode(right.digest()).decode()

    def timed(when: int | str, over: bytes = body) -> str:
        return hmac.new(_HOOKS, f"{when}.".encode() + over, hashlib.sha256).hexdigest()

    github: dict[str, str] = {
        "nothing": "",
        "no form": hexed,
        "SHA-1": "sha1=" + hmac.new(_HOOKS, body, hashlib.sha1).hexdigest(),
        "SHA-1 by another name": "sha256=" + hmac.new(_HOOKS, body, hashlib.sha1).hexdigest(),
        "a capital name": "SHA256=" + hexed,
        "half": "sha256=" + hexed[:32],
        "one byte": "sha256=" + hexed[:2],
        "no byte": "sha256=",
        "more": "sha256=" + hexed + "00",
        "an odd digit": "sha256=" + hexed[:-1],
        "two": f"sha256={hexed},sha256={hexed}",
        "digits of another alphabet": "sha256=" + "\xd9\xa1" * 64,
        "no secret": "sha256=" + hmac.new(b"", body, hashlib.sha256).hexdigest(),
        "no key": "sha256=" + hashlib.sha256(body).hexdigest(),
        "the secret in front": "sha256=" + hashlib.sha256(_HOOKS + body).hexdigest(),
        "another body": "sha256=" + hmac.new(_HOOKS, other, hashlib.sha256).hexdigest(),
        "10,000 digits": "sha256=" + "0" * 10_000,
        "as Base64": "sha256=" + based,
    }  # fmt: skip
    found = [
        refused("hooks", name, "/by/hook", [("X-Hub-Signature-256", value)], body=body)
        for name, value in github.items()
    ]
    good = ("X-Hub-Signature-256", f"sha256={hexed}")
    found += [
        refused("hooks", "none", "/by/hook", [], body=body),
        refused("hooks", "two headers", "/by/hook", [good, good], body=body),
        refused("hooks", "a bad and a good header", "/by/hook", [("X-Hub-Signature-256", "sha256=00"), good], body=body),
        refused("hooks", "another header", "/by/hook", [("X-Hub-Signature", f"sha256={hexed}")], body=body),
        refused("hooks", "in the query", f"/by/hook?X-Hub-Signature-256=sha256={hexed}", [], body=body),
        refused("hooks", "a space behind the body", "/by/hook", [good], body=body + b" "),
        refused("hooks", "no body", "/by/hook", [good]),
        welcome("hooks", "a good one", "/by/hook", [good], body=body),
        welcome("hooks", "a good one in capital digits", "/by/hook", [("X-Hub-Signature-256", f"sha256={hexed.upper()}")], body=body),
        refused("hooks", "bare, with a form", "/by/bare", [("X-Bare", f"sha256={hexed}")], body=body),
        refused("hooks", "bare, as Base64", "/by/bare", [("X-Bare", based)], body=body),
        welcome("hooks", "bare", "/by/bare", [("X-Bare", hexed)], body=body),
        refused("hooks", "Base64, of a URL", "/by/based", [("X-Based", based.translate(str.maketrans("+/", "-_")).rstrip("="))], body=body),
        refused("hooks", "Base64, twice", "/by/based", [("X-Based", base64.b64encode(based.encode()).decode())], body=body),
        welcome("hooks", "Base64", "/by/based", [("X-Based", based)], body=body),
    ]  # fmt: skip
    for name, value in {
        "no time": f"v1={timed(now)}",
        "two times": f"t={now},t={now},v1={timed(now)}",
        "a time of last week": f"t={now - 604_800},v1={timed(now - 604_800)}",
        "a time of next week": f"t={now + 604_800},v1={timed(now + 604_800)}",
        "another time": f"t={now},v1={timed(now - 1)}",
        "a negative time": f"t=-1,v1={timed(-1)}",
        "a time of 13 digits": f"t={now}000,v1={timed(f'{now}000')}",
        "a fraction of a time": f"t={now}.5,v1={timed(f'{now}.5')}",
        "a time with an exponent": f"t=1e9,v1={timed('1e9')}",
        "v0 alone": f"t={now},v0={timed(now)}",
        "an empty v1": f"t={now},v1=",
        "no v1": f"t={now}",
        "the right one behind eight others": f"t={now}," + "v1=00," * 8 + f"v1={timed(now)}",
        "the time in the body": f"t={now},v1={hmac.new(_HOOKS, body, hashlib.sha256).hexdigest()}",
    }.items():  # fmt: skip
        found.append(
            refused("hooks", f"a time, {name}", "/by/timed", [("X-Timed", value)], body=body)
        )

    def twice(name: str, first: str, again: str) -> Case:
        requests = [
            asked("/by/timed", ("X-Timed", value), here(), body=body) for value in (first, again)
        ]
        return Case(
            "hooks",
            name,
            in_turn(*requests),
            (401,),
            holds=rb"(?s)\A(?!.*POST /reached.*POST /reached).*POST /reached",
        )

    for index, (name, first, again) in enumerate((
        ("one again", "t={t},v1={v}", "t={t},v1={v}"),
        ("one again in capital digits", "t={t},v1={v}", "t={t},v1={V}"),
        ("one again with a zero in front of its time", "t={t},v1={v}", "t=0{t},v1={v}"),
        ("one again with others before it", "t={t},v1={v}", "t={t},v1=00,v1={v}"),
        ("one again with spaces", "t={t},v1={v}", "t={t} , v1={v}"),
        ("one again with spaces in its digits", "t={t},v1={v}", "t={t},v1={w}"),
    ), 1):  # fmt: skip
        made = timed(now - index)
        words = {"t": now - index, "v": made, "V": made.upper(), "w": f"{made[:2]} {made[2:]}"}
        found.append(twice(name, first.format(**words), again.format(**words)))
    return found


def cases() -> list[Case]:
    """All."""
    return [*_keys(), *_passwords(), *_hooks()]
