"""WS-Security: who sends a SOAP message, by UsernameToken, and when, by Timestamp (OASIS SOAP
Message Security 1.1 and UsernameToken Profile 1.1).

Out, `ClientSecurity.header` writes the Security header and `check_reply` reads that of the reply.
In, a `Guard` says who sent a message, or raises the fault that the specification has for it:

    unknown user, wrong password, nonce used before   wsse:FailedAuthentication
    too old, expired                                  wsse:MessageExpired
    missing, malformed, twice, from the future        wsse:InvalidSecurity
    a certificate, SAML, any other token              wsse:UnsupportedSecurityToken
    a signature, encryption                           wsse:UnsupportedAlgorithm

What is not checked here is refused, never passed over: a signature that nobody verifies would look
like one that somebody did.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import structlog
from lxml import etree
from pydantic import Field, SecretStr, model_validator

from esb.clock import current
from esb.durable import Confirm, Store, give_up
from esb.errors import BadReply
from esb.identity import Principal
from esb.options import Duration, Options, Words
from esb_soap.envelope import HeaderFault, SoapMessage, blocks_for_us, xml_text

log = structlog.get_logger("esb.soap")

_OASIS: Final = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
WSSE: Final = _OASIS + "wssecurity-secext-1.0.xsd"
_WSU: Final = _OASIS + "wssecurity-utility-1.0.xsd"
_PROFILE: Final = _OASIS + "username-token-profile-1.0#Password"
_BASE64: Final = _OASIS + "soap-message-security-1.0#Base64Binary"
SECURITY: Final = f"{{{WSSE}}}Security"

Kind = Literal["text", "digest"]
"""How a password is shown: as it is, or as SHA-1 of nonce, time and password."""

_TEXT: Final = etree.XPath("string()")
_LONGEST: Final = 1024  # characters of a name, nonce or time
_SKEW_OF_REPLIES: Final = 300.0


# --- out -----------------------------------------------------------------------------------------


class ClientSecurity(Options):
    """The WS-Security header to send: a UsernameToken, a Timestamp, or both."""

    username: str = Field("", description="The user that the bus is at the service.")
    password: SecretStr | None = Field(
        None, description="The user's password; write ${NAME} or name a secret file."
    )
    type: Kind = Field(
        "text",
        description="text sends the password itself, so use https; digest a hash of it with a "
        "nonce and the time.",
    )
    nonce: bool = Field(
        False, description="Send a nonce and the time with a text password too; digest always does."
    )
    timestamp: Duration | None = Field(
        None, description="Add a Timestamp that expires after this time."
    )
    must_understand: bool = Field(True, description="Mark the header mustUnderstand.")

    @model_validator(mode="after")
    def _complete(self) -> ClientSecurity:
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password belong together")
        if not self.username and self.timestamp is None:
            raise ValueError("give username and password, or timestamp")
        if self.type == "text" and "\ufffd" in xml_text(self._secret):
            raise ValueError("the password has characters that XML cannot carry: use type digest")
        return self

    @property
    def _secret(self) -> str:
        return self.password.get_secret_value() if self.password is not None else ""

    def header(self) -> bytes:
        """The header block for one message, new each time. It uses the prefix of the envelope."""
        now = datetime.now(UTC)
        parts = []
        if self.timestamp is not None:
            parts.append(timestamp(now, self.timestamp))
        if self.username:
            parts.append(self._token(now))
        marked = ' soap:mustUnderstand="1"' if self.must_understand else ""
        return security_header("".join(parts), marked)

    def _token(self, now: datetime) -> str:
        password, more = self._secret, ""
        if self.nonce or self.type == "digest":
            nonce, created = secrets.token_bytes(16), _written(now)
            if self.type == "digest":
                password = _base64(digest(nonce, created, password))
            more = (
                f'<wsse:Nonce EncodingType="{_BASE64}">{_base64(nonce)}</wsse:Nonce>'
                f"<wsu:Created>{created}</wsu:Created>"
            )
        return (
            f"<wsse:UsernameToken><wsse:Username>{xml_text(self.username)}</wsse:Username>"
            f'<wsse:Password Type="{_PROFILE}{self.type.title()}">{xml_text(password)}'
            f"</wsse:Password>{more}</wsse:UsernameToken>"
        )


def security_header(content: str, attributes: str = "") -> bytes:
    """A Security header block around serialized tokens."""
    open_tag = f'<wsse:Security xmlns:wsse="{WSSE}" xmlns:wsu="{_WSU}"{attributes}>'
    return f"{open_tag}{content}</wsse:Security>".encode()


def timestamp(now: datetime, lifetime: float) -> str:
    """A Timestamp element (SOAP Message Security 1.1, section 10)."""
    expires = now + timedelta(seconds=lifetime)
    return (
        f"<wsu:Timestamp><wsu:Created>{_written(now)}</wsu:Created>"
        f"<wsu:Expires>{_written(expires)}</wsu:Expires></wsu:Timestamp>"
    )


def digest(nonce: bytes, created: str, password: str) -> bytes:
    """The password digest (UsernameToken Profile 1.1, section 3.1)."""
    return hashlib.sha1(nonce + created.encode() + password.encode()).digest()  # noqa: S324


def check_reply(message: SoapMessage) -> None:
    """Whether the Security header of a reply, if there is one, says nothing but a time that is
    not over. Raises BadReply."""
    try:
        block = _security(message)
        if block is None:
            return
        tokens = _tokens(block, {"Timestamp"})
        if "Timestamp" in tokens:
            _Times(current.get().time(), _SKEW_OF_REPLIES).check_timestamp(tokens["Timestamp"])
    except HeaderFault as e:
        raise BadReply(f"in the reply, {e.detail}") from e


def refused_credentials(*codes: str) -> bool:
    """Whether the codes of a fault are those of WS-Security: it blames who put the header there."""
    return any(code.startswith((f"{{{WSSE}}}", f"{{{_WSU}}}", "wsse:")) for code in codes)


# --- in ------------------------------------------------------------------------------------------


class HostSecurity(Options):
    """Who may ask a hosted service: every request must have a UsernameToken of one of the users.

    The user's name is then `message.principal`. The WSDL stays open to everybody.
    """

    users: dict[str, SecretStr] = Field(
        min_length=1, description="Passwords by user; write ${NAME} or name a secret file."
    )
    roles: dict[str, Words] = Field(
        {}, description="Roles by user: `principal.roles`, for `allow`."
    )
    type: Kind | None = Field(
        None, description="The only way to show a password that is taken; both if left out."
    )
    timestamp: bool = Field(
        False, description="Require a Timestamp, and answer with one (which WCF wants)."
    )
    max_age: Duration = Field(
        300.0,
        description="How old a token or Timestamp may be. For as long nonces are remembered, also "
        "over restarts.",
    )
    clock_skew: Duration = Field(60.0, description="How far the clocks of callers may be off.")


class Nonces:
    """Nonces that were used, for as long as they could be used again: claims in the store, so that
    neither a restart nor another bus on the same store takes one twice."""

    def __init__(self, store: Store, scope: str) -> None:
        self._store = store
        self._scope = scope

    async def spend(self, nonce: str, expires: float) -> bool:
        """Whether it is used for the first time; returns once that is on the disk.

        Raises Transient or Overloaded if it cannot be written; then it was not used.
        """
        claim = await self._store.claim(self._scope, nonce, expires)
        if claim.state != "new":
            return False
        try:
            await self._store.commit((Confirm(self._scope, nonce, expires),))
        except BaseException:
            await give_up(self._store, (self._scope, nonce))
            raise
        return True


class Guard:
    """Says who sent a message."""

    def __init__(self, options: HostSecurity, nonces: Nonces) -> None:
        self._passwords = {user: p.get_secret_value() for user, p in options.users.items()}
        self._roles = {user: tuple(roles) for user, roles in options.roles.items()}
        self._kind = options.type
        self._max_age = options.max_age
        self._skew = options.clock_skew
        self._nonces = nonces
        self.timestamp = options.timestamp

    async def admit(self, message: SoapMessage) -> Principal:
        """The user who sent `message`, whose Security header is taken out: what is in there is for
        nobody else. Raises HeaderFault, with the code of the specification."""
        block = _security(message)
        if block is None:
            raise _fault("InvalidSecurity", "a WS-Security header with a UsernameToken is required")
        tokens = _tokens(block, {"Timestamp", "UsernameToken"})
        times = _Times(current.get().time(), self._skew, self._max_age)
        if "Timestamp" in tokens:
            times.check_timestamp(tokens["Timestamp"])
        elif self.timestamp:
            raise _fault("InvalidSecurity", "a Timestamp is required")
        if "UsernameToken" not in tokens:
            raise _fault("InvalidSecurity", "a UsernameToken is required")
        token = _read_token(tokens["UsernameToken"])
        created = times.check_created(token.created) if token.created is not None else None
        proof = self._check_password(token)
        if token.nonce is not None and created is not None:
            expires = created + self._max_age + self._skew
            if not await self._nonces.spend(proof.hex(), expires):
                raise _refused("its nonce was used before")
        parent = block.getparent()
        assert parent is not None
        parent.remove(block)
        return Principal(name=token.user, method="security", roles=self._roles.get(token.user, ()))

    def _check_password(self, token: _Token) -> bytes:
        """What makes the token the one that it is. Raises HeaderFault for a wrong password."""
        if self._kind is not None and token.kind != self._kind:
            raise _refused(f"its password is given as {token.kind}, not as {self._kind}")
        known = self._passwords.get(token.user)
        # An unknown user takes as long as a wrong password, so that nobody can tell them apart.
        password = known if known is not None else secrets.token_hex()
        if token.kind == "text":
            given, expected = token.password.encode(), password.encode()
            proof = repr((token.user, token.nonce, token.created)).encode()
        else:
            assert token.nonce is not None
            given = _decoded(token.password, "Password")
            expected = digest(token.nonce, token.created or "", password)
            # Not nonce and time: bytes moved from the one to the other give the same digest.
            proof = expected
        if not hmac.compare_digest(given, expected) or known is None:
            raise _refused("its user is not known" if known is None else "its password is wrong")
        return hashlib.sha256(token.kind.encode() + proof).digest()


class _Token(NamedTuple):
    """What a UsernameToken says."""

    user: str
    kind: Kind
    password: str
    nonce: bytes | None
    created: str | None


def _read_token(element: etree._Element) -> _Token:
    """Raises HeaderFault for what is not as the profile says, or is not supported."""
    fields: dict[str, etree._Element] = {}
    for child in element.iterchildren("*"):
        name = _TOKEN_FIELDS.get(str(child.tag))
        if name is None:
            text = f"'{etree.QName(child).localname}' in a UsernameToken is not supported"
            raise _fault("UnsupportedSecurityToken", text)
        if name in fields:
            raise _fault("InvalidSecurity", f"the UsernameToken has two '{name}'")
        fields[name] = child
    for name in ("Username", "Password"):
        if name not in fields:
            raise _fault("InvalidSecurity", f"the UsernameToken has no '{name}'")
    said = (fields["Password"].get("Type") or "").strip()
    kind = _KINDS.get(re.split("[#:]", said)[-1])  # some write wsse:PasswordText
    if kind is None:
        raise _fault("UnsupportedSecurityToken", "passwords are PasswordText or PasswordDigest")
    nonce = created = None
    if "Nonce" in fields:
        encoding = (fields["Nonce"].get("EncodingType") or _BASE64).strip()
        if not encoding.endswith("Base64Binary"):
            raise _fault("InvalidSecurity", "the Nonce must be in Base64Binary")
        nonce = _decoded(_leaf(fields["Nonce"]), "Nonce")
    if "Created" in fields:
        created = _leaf(fields["Created"])
    if kind == "digest" and (nonce is None or created is None):
        raise _fault("InvalidSecurity", "a password digest needs Nonce and Created")
    return _Token(_leaf(fields["Username"]), kind, _leaf(fields["Password"]), nonce, created)


_TOKEN_FIELDS: Final = {
    f"{{{WSSE}}}Username": "Username",
    f"{{{WSSE}}}Password": "Password",
    f"{{{WSSE}}}Nonce": "Nonce",
    f"{{{_WSU}}}Created": "Created",
}
_KINDS: Final[dict[str, Kind]] = {"": "text", "PasswordText": "text", "PasswordDigest": "digest"}


# --- both ----------------------------------------------------------------------------------------


def _security(message: SoapMessage) -> etree._Element | None:
    """The Security header that is meant for us; there is at most one (SOAP Message Security 1.1,
    section 5)."""
    found = [block for block in blocks_for_us(message) if block.tag == SECURITY]
    if len(found) > 1:
        raise _fault("InvalidSecurity", "the message has several Security headers")
    return found[0] if found else None


def _tokens(block: etree._Element, known: set[str]) -> dict[str, etree._Element]:
    """What is in a Security header, by name. Raises HeaderFault for what is not `known`."""
    found: dict[str, etree._Element] = {}
    for child in block.iterchildren("*"):
        name = etree.QName(child)
        own = name.namespace == (_WSU if name.localname == "Timestamp" else WSSE)
        if not own or name.localname not in known:
            raise _unsupported(name)
        if name.localname in found:
            raise _fault("InvalidSecurity", f"the Security header has two '{name.localname}'")
        found[name.localname] = child
    return found


def _unsupported(name: etree.QName) -> HeaderFault:
    namespace = name.namespace or ""
    if namespace == "http://www.w3.org/2000/09/xmldsig#":
        return _fault("UnsupportedAlgorithm", "signatures (XML Signature) are not supported")
    if namespace.startswith(XMLENC):
        return _fault("UnsupportedAlgorithm", "encryption (XML Encryption) is not supported")
    kind = _OTHER_TOKENS.get(name.localname)
    if kind is not None:
        return _fault("UnsupportedSecurityToken", f"{kind} are not supported")
    return _fault("InvalidSecurity", f"'{name.localname}' in the Security header is not known")


XMLENC: Final = "http://www.w3.org/2001/04/xmlenc#"
_OTHER_TOKENS: Final = {
    "BinarySecurityToken": "binary security tokens (certificates, Kerberos)",
    "Assertion": "SAML assertions",
    "SecurityTokenReference": "references to security tokens",
    "SecurityContextToken": "security contexts (WS-SecureConversation)",
    "DerivedKeyToken": "derived keys (WS-SecureConversation)",
    "SignatureConfirmation": "signatures (XML Signature)",
    "EncryptedHeader": "encrypted headers",
    "UsernameToken": "UsernameTokens here",
}


class _Times(NamedTuple):
    """What is too old, and what is not yet."""

    now: float
    skew: float
    max_age: float = float("inf")

    def check_created(self, text: str) -> float:
        """The Unix time that `text` says. Raises HeaderFault if it is long ago or in the future."""
        created = _instant(text)
        if created > self.now + self.skew:
            raise _fault("InvalidSecurity", "the message is from the future: clocks differ")
        if created < self.now - self.max_age - self.skew:
            raise _fault("MessageExpired", "the message is too old")
        return created

    def check_timestamp(self, element: etree._Element) -> None:
        """Raises HeaderFault for a Timestamp that is over, not yet, or malformed."""
        times: dict[str, str] = {}
        for child in element.iterchildren("*"):
            name = etree.QName(child)
            if name.namespace != _WSU or name.localname not in ("Created", "Expires"):
                text = f"'{name.localname}' in a Timestamp is not known"
                raise _fault("InvalidSecurity", text)
            if name.localname in times:
                raise _fault("InvalidSecurity", f"the Timestamp has two '{name.localname}'")
            times[name.localname] = _leaf(child)
        if "Created" not in times:
            raise _fault("InvalidSecurity", "the Timestamp has no 'Created'")
        created = self.check_created(times["Created"])
        if "Expires" in times:
            expires = _instant(times["Expires"])
            if expires < created:
                raise _fault("InvalidSecurity", "the Timestamp expires before it was created")
            if expires < self.now - self.skew:
                raise _fault("MessageExpired", "the message has expired")


_DATE_TIME: Final = re.compile(
    r"\s*(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,20})?(Z|[+-]\d\d:\d\d)?\s*", re.ASCII
)


def _instant(text: str) -> float:
    """The Unix time of an xsd:dateTime, UTC where it does not say (SOAP Message Security 1.1,
    section 10)."""
    found = _DATE_TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        moment = datetime.fromisoformat(found[1] + (found[3] or "Z"))
    except ValueError:
        raise _fault("InvalidSecurity", "a time must be like 2026-01-31T12:00:00Z") from None
    return moment.timestamp() + float(f"0{found[2] or ''}")


def _leaf(element: etree._Element) -> str:
    """Text, exactly; nothing in between that could make two readers see two texts."""
    text = str(_TEXT(element))
    if len(element) or len(text) > _LONGEST:
        name = etree.QName(element).localname
        raise _fault("InvalidSecurity", f"'{name}' must be text, and not longer than {_LONGEST}")
    return text


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _fault("InvalidSecurity", f"the {what} is not base64") from None


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _fault(code: str, text: str) -> HeaderFault:
    return HeaderFault(text, f"{{{WSSE}}}{code}")


def _refused(reason: str) -> HeaderFault:
    """The caller is not told why, operators are."""
    log.info("a caller was not authenticated", reason=reason)
    return _fault("FailedAuthentication", "the UsernameToken could not be authenticated")
