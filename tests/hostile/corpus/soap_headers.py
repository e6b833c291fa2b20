"""What stands in the Header: WS-Addressing, which says where an answer goes, and WS-Security."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache

from hostile.case import Bytes, Case, Post
from hostile.corpus.soap import DROP, DTD, GET, NS, envelope, soap_case

WSA = "http://www.w3.org/2005/08/addressing"
_WSS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
WSSE = f"{_WSS}wssecurity-secext-1.0.xsd"
WSU = f"{_WSS}wssecurity-utility-1.0.xsd"
DS = "http://www.w3.org/2000/09/xmldsig#"
_PROFILE = f"{_WSS}username-token-profile-1.0#"
MB = 1024 * 1024


def _addressing() -> list[Case]:
    found = []
    for where in ("ReplyTo", "FaultTo"):
        for address in (
            "http://CANARY/x",
            "http://169.254.169.254/latest/meta-data/",
            "https://CANARY/",
            "http://[::1]:1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://localhost/",
            "file://PLANTED",
            "jms:queue:x",
            "mailto:a@b",
            "ftp://CANARY/",
            "gopher://CANARY/",
            "",
            "x",
            f"{WSA}/anonymous/",
            f"{WSA}/Anonymous",
        ):
            blocks = f"<w:Action>{NS}/getPartner</w:Action><w:MessageID>urn:1</w:MessageID><w:{where}><w:Address>{address}</w:Address></w:{where}>"
            found.append(
                soap_case(
                    "addressing",
                    f"{where} {address}",
                    envelope(GET, blocks, attributes=f' xmlns:w="{WSA}"'),
                    path="/addressed",
                    code="Only|Invalid|Missing|Client|Sender",
                )
            )
    base = f"<w:Action>{NS}/getPartner</w:Action><w:MessageID>urn:1</w:MessageID>"
    for name, blocks in {
        "no Action": "<w:MessageID>urn:1</w:MessageID>",
        "two Actions": base + f"<w:Action>{NS}/dropPartner</w:Action>",
        "another Action": base.replace("getPartner", "dropPartner"),
        "no MessageID": f"<w:Action>{NS}/getPartner</w:Action>",
        "two MessageIDs": base + "<w:MessageID>urn:2</w:MessageID>",
        "an Action of 1 MB": base.replace("getPartner", "a" * MB),
        "a MessageID of 1 MB": base.replace("urn:1", "urn:" + "a" * MB),
        "a ReplyTo without an address": base + "<w:ReplyTo/>",
        "two ReplyTos": base + f"<w:ReplyTo><w:Address>{WSA}/anonymous</w:Address></w:ReplyTo>" * 2,
    }.items():
        found.append(
            soap_case(
                "addressing",
                name,
                envelope(GET, blocks, attributes=f' xmlns:w="{WSA}"'),
                path="/addressed",
                code="Invalid|Missing|MessageAddressing|Mismatch|Client|Sender|Only|Action",
            )
        )
    found.append(
        Case(
            "addressing",
            "a To of somebody else",
            Post(
                "/addressed",
                envelope(
                    GET, base + "<w:To>http://CANARY/x</w:To>", attributes=f' xmlns:w="{WSA}"'
                ),
                "text/xml",
            ),
            (200, 500),
        )
    )
    return found


def token(
    user: str = "ada",
    password: str = "correct horse",
    *,
    age: float = 0.0,
    nonce: bytes = b"n" * 16,
    digested: bytes | None = None,
    kind: str = "Digest",
) -> str:
    """A UsernameToken."""
    created = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    right = hashlib.sha1(nonce + created.encode() + password.encode()).digest()
    shown = (
        base64.b64encode(digested if digested is not None else right).decode()
        if kind == "Digest"
        else password
    )
    return (
        f'<o:UsernameToken><o:Username>{user}</o:Username><o:Password Type="{_PROFILE}Password{kind}">{shown}</o:Password>'
        f"<o:Nonce>{base64.b64encode(nonce).decode()}</o:Nonce><u:Created>{created}</u:Created></o:UsernameToken>"
    )


def stamp(age: float = 0.0, lasts: float = 300.0) -> str:
    """A Timestamp."""
    begun = datetime.now(UTC) - timedelta(seconds=age)
    times = [
        moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        for moment in (begun, begun + timedelta(seconds=lasts))
    ]
    return f'<u:Timestamp u:Id="t"><u:Created>{times[0]}</u:Created><u:Expires>{times[1]}</u:Expires></u:Timestamp>'


def secured(*tokens: str, body: str = GET, before: str = "") -> str:
    """A message with a Security header."""
    head = f'<o:Security s:mustUnderstand="1" xmlns:o="{WSSE}" xmlns:u="{WSU}">{"".join(tokens)}</o:Security>'
    return envelope(body, before + head, attributes=f' xmlns:u="{WSU}"')


def _security() -> list[Case]:
    signature = f'<d:Signature xmlns:d="{DS}"><d:SignedInfo><d:Reference URI="#b"/></d:SignedInfo><d:SignatureValue>AA==</d:SignatureValue></d:Signature>'
    entries: dict[str, Bytes] = {
        "no header": envelope(GET),
        "an empty header": lambda: secured(),
        "no token": lambda: secured(stamp()),
        "no Timestamp": lambda: secured(token(nonce=b"a" * 16)),
        "another password": lambda: secured(stamp(), token(password="x", nonce=b"b" * 16)),
        "another user": lambda: secured(stamp(), token("eve", nonce=b"c" * 16)),
        "no digest": lambda: secured(stamp(), token(digested=b"", nonce=b"d" * 16)),
        "a short digest": lambda: secured(stamp(), token(digested=b"a", nonce=b"e" * 16)),
        "the password as text": lambda: secured(stamp(), token(kind="Text", nonce=b"f" * 16)),
        "a token of yesterday": lambda: secured(stamp(), token(age=86_400, nonce=b"g" * 16)),
        "a token of tomorrow": lambda: secured(stamp(), token(age=-86_400, nonce=b"h" * 16)),
        "a Timestamp of yesterday": lambda: secured(stamp(86_400), token(nonce=b"i" * 16)),
        "a Timestamp of tomorrow": lambda: secured(stamp(-86_400), token(nonce=b"j" * 16)),
        "a Timestamp that ends before it begins": lambda: secured(
            stamp(lasts=-600), token(nonce=b"k" * 16)
        ),
        "two tokens": lambda: secured(
            stamp(), token(nonce=b"l" * 16), token("eve", nonce=b"m" * 16)
        ),
        "two Timestamps": lambda: secured(stamp(), stamp(), token(nonce=b"o" * 16)),
        "two headers": lambda: secured(
            stamp(), token(nonce=b"p" * 16), before=f'<o:Security xmlns:o="{WSSE}"/>'
        ),
        "a nonce of 1 MB": lambda: secured(stamp(), token(nonce=b"q" * MB)),
        "a nonce that is no base64": lambda: secured(
            stamp(), token(nonce=b"r" * 16).replace("<o:Nonce>", "<o:Nonce>!")
        ),
        "a user of 1 MB": lambda: secured(stamp(), token("a" * MB, nonce=b"s" * 16)),
        "a signature": lambda: secured(stamp(), token(nonce=b"t" * 16), signature),
        "a signature alone": lambda: secured(stamp(), signature),
        "a signature of a Body that was moved": lambda: secured(
            stamp(),
            token(nonce=b"u" * 16),
            signature,
            before=f'<w:Wrapper xmlns:w="urn:w"><s:Body u:Id="b">{GET}</s:Body></w:Wrapper>',
            body=DROP,
        ),
        "a certificate": lambda: secured(
            stamp(), "<o:BinarySecurityToken>AA==</o:BinarySecurityToken>"
        ),
        "a SAML assertion": lambda: secured(
            stamp(), '<a:Assertion xmlns:a="urn:oasis:names:tc:SAML:2.0:assertion"/>'
        ),
        "a reference to a page": lambda: secured(
            stamp(),
            '<o:SecurityTokenReference><o:Reference URI="http://CANARY/t"/></o:SecurityTokenReference>',
        ),
        "an encrypted key": lambda: secured(
            stamp(), '<e:EncryptedKey xmlns:e="http://www.w3.org/2001/04/xmlenc#"/>'
        ),
        "a comment in the user": lambda: secured(stamp(), token("ad<!-- -->x", nonce=b"v" * 16)),
        "an entity": lambda: DTD + secured(stamp(), token("&x;", nonce=b"w" * 16)),
        "a token behind the Body": lambda: envelope(GET + secured(stamp(), token(nonce=b"x" * 16))),
        "100,000 tokens": lambda: secured(stamp(), "<o:UsernameToken/>" * 100_000),
        "an element nobody knows": lambda: secured(stamp(), token(nonce=b"y" * 16), "<x/>"),
        "a token for another actor": lambda: envelope(
            GET,
            f'<o:Security s:actor="urn:other" xmlns:o="{WSSE}" xmlns:u="{WSU}">{stamp()}{token(nonce=b"z" * 16)}</o:Security>',
        ),
    }
    codes = "FailedAuthentication|MessageExpired|InvalidSecurity|Unsupported|Client|MustUnderstand"
    found = [
        soap_case("security", name, body, path="/secured", code=codes)
        for name, body in entries.items()
    ]
    once = cache(lambda: secured(stamp(), token(nonce=b"replayed-nonce-1")))
    found += [
        Case(
            "security",
            "a token",
            Post("/secured", once, "text/xml"),
            (200,),
        ),
        soap_case(
            "security",
            "its nonce again",
            once,
            path="/secured",
            code="FailedAuthentication",
        ),
    ]
    return found


def cases() -> list[Case]:
    """All."""
    return [*_addressing(), *_security()]
