"""WS-Security: who may ask a hosted service, and what the bus shows of itself to others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zeep
import zeep.exceptions
import zeep.wsse.utils
from lxml import etree
from pydantic import ValidationError
from support.bus import load_text, running, url
from support.peers import PARTNER_WSDL
from support.soap import GET, NS, S11, S12, Client, hosted, soap
from support.stores import opened
from support.waiting import Jumping, until
from support.web import backend, read_request
from zeep.wsse.username import UsernameToken

from esb.durable import Change
from esb.envelope import Body, Headers
from esb.errors import Transient
from esb.store import SqliteStore
from esb_soap.envelope import SoapFault, read_envelope, read_fault
from esb_soap.security import ClientSecurity, HostSecurity, Nonces

OASIS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
WSSE = OASIS + "wssecurity-secext-1.0.xsd"
WSU = OASIS + "wssecurity-utility-1.0.xsd"
PASSWORD = "s3cret & <more>"
USERS = {"users": {"ada": PASSWORD, "bob": "other"}}
PARTNER_XML = (
    f'<getPartnerResponse xmlns="{NS}"><partner><name>A</name><kind>person</kind></partner>'
    "</getPartnerResponse>"
)


def at(seconds: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def text(user: str = "ada", password: str = PASSWORD, more: str = "") -> str:
    return (
        f"<w:UsernameToken><w:Username>{user}</w:Username>"
        f"<w:Password>{escape(password)}</w:Password>{more}</w:UsernameToken>"
    )


def digest(
    user: str = "ada", password: str = PASSWORD, nonce: bytes = b"", created: str = ""
) -> str:
    """A token, made as the profile says and not as the bus does."""
    nonce, created = nonce or os.urandom(16), created or at()
    raw = hashlib.sha1(nonce + created.encode() + password.encode()).digest()
    return (
        f"<w:UsernameToken><w:Username>{user}</w:Username>"
        f'<w:Password Type="{OASIS}username-token-profile-1.0#PasswordDigest">'
        f"{base64.b64encode(raw).decode()}</w:Password>"
        f"<w:Nonce>{base64.b64encode(nonce).decode()}</w:Nonce><u:Created>{created}</u:Created>"
        "</w:UsernameToken>"
    )


def stamp(created: str, expires: str = "", more: str = "") -> str:
    expires = f"<u:Expires>{expires}</u:Expires>" if expires else ""
    return f"<u:Timestamp><u:Created>{created}</u:Created>{expires}{more}</u:Timestamp>"


def header(*tokens: str, attributes: str = 's:mustUnderstand="1"') -> str:
    return (
        f'<w:Security xmlns:w="{WSSE}" xmlns:u="{WSU}" {attributes}>{"".join(tokens)}</w:Security>'
    )


def message(*blocks: str, ns: str = S11, body: str = GET) -> str:
    return soap(body, ns, f"<s:Header>{''.join(blocks)}</s:Header>")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as one:
        yield one


def subject(fault: SoapFault) -> str:
    """The local name of the WS-Security code, wherever the version has it."""
    code = fault.code if fault.code != "Sender" else fault.subcodes[0]
    assert code.startswith(f"{{{WSSE}}}"), fault
    return code.rpartition("}")[2]


async def refused(client: Client, *blocks: str, ns: str = S11, body: str = GET) -> SoapFault:
    seen = len(client.seen)
    kind = "text/xml" if ns == S11 else "application/soap+xml"
    status = 500 if ns == S11 else 400
    fault = await client.fault(message(*blocks, ns=ns, body=body), status=status, kind=kind)
    assert len(client.seen) == seen, "it reached the route"
    assert PASSWORD not in repr(fault)
    return fault


class TestIn:
    @pytest.mark.parametrize("token", [text, digest])
    @pytest.mark.parametrize("ns", [S11, S12])
    async def test_a_user_is_the_principal(self, store: SqliteStore, token: Any, ns: str) -> None:
        async with hosted(store=store, security=USERS) as client:
            kind = "text/xml" if ns == S11 else "application/soap+xml"
            await client.answer(message(header(token()), ns=ns), kind=kind)
            assert client.seen[0].principal == "ada"
            assert client.seen[0].body.data == {"id": 1}

    @pytest.mark.parametrize("ns", [S11, S12])
    @pytest.mark.parametrize(
        ("tokens", "code"),
        [
            (lambda: [text(password="wrong")], "FailedAuthentication"),
            (lambda: [text(password="")], "FailedAuthentication"),
            (lambda: [text(password=PASSWORD + " ")], "FailedAuthentication"),
            (lambda: [text(user="eve")], "FailedAuthentication"),
            (lambda: [text(user="bob")], "FailedAuthentication"),
            (lambda: [digest(password="wrong")], "FailedAuthentication"),
            (lambda: [digest(user="eve")], "FailedAuthentication"),
            (list, "InvalidSecurity"),
            (lambda: [stamp(at())], "InvalidSecurity"),
            (lambda: [text(), text()], "InvalidSecurity"),
            (lambda: [text(), stamp(at()), stamp(at())], "InvalidSecurity"),
            (lambda: [text(more="<w:Username>eve</w:Username>")], "InvalidSecurity"),
            (lambda: [text(more="<w:Password>x</w:Password>")], "InvalidSecurity"),
            (lambda: [text(user="ada<!-- -->")], "InvalidSecurity"),
            (lambda: [text(user="<w:Username>ada</w:Username>")], "InvalidSecurity"),
            (lambda: ["<w:UsernameToken><w:Username>ada</w:Username></w:UsernameToken>"],
             "InvalidSecurity"),
            (lambda: [text(more="<w:Nonce>!</w:Nonce>")], "InvalidSecurity"),
            (lambda: [text(more="<u:Created>yesterday</u:Created>")], "InvalidSecurity"),
            (lambda: [digest().replace("<w:Nonce>", "<w:Nonce>!")], "InvalidSecurity"),
            (lambda: [re.sub("<w:Nonce>.*</w:Nonce>", "", digest())], "InvalidSecurity"),
            (lambda: [re.sub("<u:Created>.*</u:Created>", "", digest())], "InvalidSecurity"),
            (lambda: [digest(created=at(-3600))], "MessageExpired"),
            (lambda: [digest(created=at(3600))], "InvalidSecurity"),
            (lambda: [digest(created="9999-99-99T00:00:00Z")], "InvalidSecurity"),
            (lambda: [text(), stamp(at(-3600))], "MessageExpired"),
            (lambda: [text(), stamp(at(-200), at(-100))], "MessageExpired"),
            (lambda: [text(), stamp(at(3600), at(7200))], "InvalidSecurity"),
            (lambda: [text(), stamp(at(), at(-10))], "InvalidSecurity"),
            (lambda: [text(), stamp(at(), more="<u:Created>x</u:Created>")], "InvalidSecurity"),
            (lambda: [text(), "<u:Timestamp/>"], "InvalidSecurity"),
            (lambda: [header(text())], "InvalidSecurity"),
            (lambda: [text(), header(text())], "InvalidSecurity"),
            (lambda: [text(), "<x xmlns='urn:x'/>"], "InvalidSecurity"),
            (lambda: [text(), "<w:BinarySecurityToken/>"], "UnsupportedSecurityToken"),
            (lambda: [text(more="<k:Salt xmlns:k='urn:k'/>")], "UnsupportedSecurityToken"),
            (lambda: [text(), "<a:Assertion xmlns:a='urn:oasis:names:tc:SAML:2.0:assertion'/>"],
             "UnsupportedSecurityToken"),
            (lambda: [text(), "<d:Signature xmlns:d='http://www.w3.org/2000/09/xmldsig#'/>"],
             "UnsupportedAlgorithm"),
            (lambda: [text(), "<e:EncryptedKey xmlns:e='http://www.w3.org/2001/04/xmlenc#'/>"],
             "UnsupportedAlgorithm"),
        ],
    )  # fmt: skip
    async def test_others_are_refused(
        self, store: SqliteStore, tokens: Callable[[], list[str]], code: str, ns: str
    ) -> None:
        async with hosted(store=store, security=USERS) as client:
            fault = await refused(client, header(*tokens()), ns=ns)
            assert subject(fault) == code
            assert fault.reason

    async def test_nobody_learns_which_users_there_are(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            unknown = await refused(client, header(text(user="eve")))
            assert unknown == await refused(client, header(text(password="wrong")))

    async def test_it_takes_a_header_of_our_own(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            assert subject(await refused(client)) == "InvalidSecurity"
            for_another = header(text(), attributes='s:actor="urn:somebody:else"')
            assert subject(await refused(client, for_another)) == "InvalidSecurity"
            twice = [header(text()), header(text("bob", "other"))]
            assert subject(await refused(client, *twice)) == "InvalidSecurity"
            inside = f"<x:a xmlns:x='urn:x'>{header(text())}</x:a>"
            assert subject(await refused(client, inside)) == "InvalidSecurity"
            fault = await refused(client, body=GET.replace("</get", f"{header(text())}</get"))
            assert subject(fault) == "InvalidSecurity"

    async def test_the_operation_is_not_looked_at_before(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            assert subject(await refused(client, body="<nothing/>")) == "InvalidSecurity"

    async def test_a_token_counts_once(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            once = message(header(digest()))
            await client.answer(once)
            assert subject(await client.fault(once)) == "FailedAuthentication"
            more = (
                f"<w:Nonce>{base64.b64encode(b'n').decode()}</w:Nonce><u:Created>{at()}</u:Created>"
            )
            once = message(header(text(more=more)))
            await client.answer(once)
            assert subject(await client.fault(once)) == "FailedAuthentication"
            await client.answer(message(header(text())))
            await client.answer(message(header(text())))

    async def test_bytes_moved_from_nonce_to_time_make_no_new_token(
        self, store: SqliteStore
    ) -> None:
        # The digest is the same, for it is taken over both, one behind the other.
        async with hosted(store=store, security=USERS) as client:
            created = at()
            await client.answer(message(header(digest(nonce=b"nonce ", created=created))))
            moved = digest(nonce=b"nonce", created=" " + created)
            assert subject(await refused(client, header(moved))) == "FailedAuthentication"

    async def test_of_many_at_once_one_counts(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            once = message(header(digest()))
            answers = await asyncio.gather(*(client.post(once) for _ in range(10)))
            assert sorted(status for status, _ in answers) == [200] + [500] * 9

    async def test_a_restart_forgets_no_nonce(self, tmp_path: Path) -> None:
        once = message(header(digest()))
        for first in (True, False):
            async with (
                opened(tmp_path / "bus.db") as store,
                hosted(store=store, security=USERS) as client,
            ):
                if first:
                    await client.answer(once)
                else:
                    assert subject(await client.fault(once)) == "FailedAuthentication"

    async def test_a_nonce_counts_once_and_for_its_time(self, tmp_path: Path) -> None:
        jumping = Jumping()
        async with opened(tmp_path / "bus.db", clock=jumping.clock) as store:
            nonces = Nonces(store, "n")
            assert await nonces.spend("a", jumping.now + 100)
            assert not await Nonces(store, "n").spend("a", jumping.now + 100)
            assert await Nonces(store, "another service").spend("a", jumping.now + 100)
            jumping.now += 101
            assert await nonces.spend("a", jumping.now + 100), "too old to count by itself"

    async def test_without_room_a_token_is_not_used_up(self, tmp_path: Path) -> None:
        async with (
            opened(tmp_path / "bus.db", max_size=1) as store,
            hosted(store=store, security=USERS) as client,
        ):
            once = message(header(digest()))
            for _ in range(2):
                fault = await client.fault(once)
                assert (fault.code, client.seen) == ("Server", [])

    async def test_one_that_the_store_was_away_for_is_not_used_up(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("esb.durable.GIVE_UP_AGAIN", 0.01)
        commit, away = store.commit, 2

        async def now_and_then(changes: Sequence[Change]) -> list[int]:
            nonlocal away
            away -= 1
            if away >= 0:
                raise Transient("the store does not answer")
            return await commit(changes)

        monkeypatch.setattr(store, "commit", now_and_then)
        nonces = Nonces(store, "n")
        with pytest.raises(Transient):
            await nonces.spend("a", 9e9)
        assert await until(lambda: nonces.spend("a", 9e9))

    async def test_one_way_to_show_a_password(self, store: SqliteStore) -> None:
        async with hosted(store=store, security={**USERS, "type": "digest"}) as client:
            await client.answer(message(header(digest())))
            assert subject(await refused(client, header(text()))) == "FailedAuthentication"

    async def test_a_timestamp_can_be_required_and_is_answered(self, store: SqliteStore) -> None:
        async with hosted(store=store, security={**USERS, "timestamp": True}) as client:
            assert subject(await refused(client, header(text()))) == "InvalidSecurity"
            status, raw = await client.post(message(header(stamp(at(), at(60)), text())))
            assert status == 200
            root = etree.fromstring(raw)
            (expires,) = root.iterfind(f"{{*}}Header/{{{WSSE}}}Security/*/{{{WSU}}}Expires")
            assert expires.text is not None
            assert expires.text > at(200)

    async def test_an_answer_has_one_security_header(self, store: SqliteStore) -> None:
        theirs = message(header(stamp(at(), at(60))), body=PARTNER_XML)
        step = Body(theirs.encode(), "text/xml")
        async with hosted(step, store=store, security={**USERS, "timestamp": True}) as client:
            _, raw = await client.post(message(header(stamp(at()), text())))
            root = etree.fromstring(raw)
            assert len(list(root.iterfind(f"{{*}}Header/{{{WSSE}}}Security"))) == 1

    async def test_clocks_may_be_off_as_far_as_is_said(self, store: SqliteStore) -> None:
        options = {**USERS, "max_age": "10s", "clock_skew": "30s"}
        async with hosted(store=store, security=options) as client:
            for seconds in (25, -35):
                await client.answer(message(header(digest(created=at(seconds)))))
            for seconds in (35, -45):
                await refused(client, header(digest(created=at(seconds))))

    @pytest.mark.parametrize("form", ["data", "xml", "envelope"])
    async def test_the_route_gets_no_password(self, store: SqliteStore, form: str) -> None:
        async with hosted(store=store, security=USERS, body=form) as client:
            session = '<x:Trace xmlns:x="urn:x">7</x:Trace>'
            await client.answer(message(session, header(text())))
            (got,) = client.seen
            assert b"s3cret" not in got.body.raw
            assert b"Security" not in got.body.raw
            assert (b"Trace" in got.body.raw) == (form == "envelope")
            if form == "envelope":
                assert read_envelope(got.body.raw).content is not None

    async def test_without_security_a_header_that_must_be_understood_is_not(self) -> None:
        async with hosted() as client:
            assert (await client.fault(message(header(text())))).code == "MustUnderstand"
            await client.answer(message(header(text(), attributes="")))
            assert client.seen[0].principal == ""

    async def test_what_is_not_there_yet_is_said(self, store: SqliteStore) -> None:
        async with hosted() as client:
            encrypted = '<e:EncryptedData xmlns:e="http://www.w3.org/2001/04/xmlenc#"/>'
            assert "is encrypted" in (await client.fault(soap(encrypted))).reason
            xop = '<i:Include xmlns:i="http://www.w3.org/2004/08/xop/include" href="file:///x"/>'
            fault = await client.fault(soap(GET.replace("1", xop)), status=415)
            assert "xop:Include" in fault.reason

    async def test_operators_are_told_why(
        self, store: SqliteStore, capsys: pytest.CaptureFixture[str], caplog: Any
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with hosted(store=store, security=USERS) as client:
            await refused(client, header(text(password="my-wr0ng-one")))
        told = capsys.readouterr().out + caplog.text
        assert "its password is wrong" in told
        assert "wr0ng" not in told
        assert "s3cret" not in told

    async def test_huge_headers(self, store: SqliteStore) -> None:
        async with hosted(store=store, security=USERS) as client:
            assert subject(await refused(client, header(text(user="a" * 2_000_000))))
            await refused(client, header(text("ada", "x" * 2_000_000)))
            await refused(client, header(*["<w:Nonce/>"] * 100_000))
            await client.answer(message(header(text())))

    def test_passwords_are_not_shown(self) -> None:
        assert "s3cret" not in repr(HostSecurity.model_validate(USERS))
        with pytest.raises(ValidationError) as caught:
            HostSecurity.model_validate({"users": {"ada": ["s3cret"]}})
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("wrong", [{}, {"users": {}}, {"users": {"a": "b"}, "type": "hash"}])
    def test_options_that_are_wrong(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            HostSecurity.model_validate(wrong)


class TestZeepAsks:
    @pytest.mark.parametrize("kind", ["text", "digest", "timestamp"])
    async def test_it(self, kind: str, store: SqliteStore) -> None:
        options: dict[str, Any] = {"use_digest": kind != "text"}
        if kind == "timestamp":
            made = zeep.wsse.utils.WSU.Timestamp()
            made.append(zeep.wsse.utils.WSU.Created(at()))
            made.append(zeep.wsse.utils.WSU.Expires(at(60)))
            options["timestamp_token"] = made
        token = UsernameToken("ada", PASSWORD, **options)
        security = {**USERS, "timestamp": kind == "timestamp"}
        async with hosted(store=store, security=security) as client:
            asked = await asyncio.to_thread(zeep.Client, client.url + "?wsdl", wsse=token)
            answer = await asyncio.to_thread(asked.service.getPartner, id=1)
            assert answer["name"] == "A & <B>"
            assert client.seen[0].principal == "ada"

    async def test_it_learns_that_it_is_not_known(self, store: SqliteStore) -> None:
        token = UsernameToken("eve", PASSWORD, use_digest=True)
        async with hosted(store=store, security=USERS) as client:
            asked = await asyncio.to_thread(zeep.Client, client.url + "?wsdl", wsse=token)
            with pytest.raises(zeep.exceptions.Fault) as caught:
                await asyncio.to_thread(asked.service.getPartner, id=1)
            assert caught.value.code.endswith(":FailedAuthentication")


# --- out -----------------------------------------------------------------------------------------


def block(**options: Any) -> etree._Element:
    """The Security header that these options make."""
    made = ClientSecurity.model_validate(options).header()
    root = etree.fromstring(f'<a xmlns:soap="{S11}">{made.decode()}</a>')
    return root[0]


def child(parent: etree._Element, path: str) -> etree._Element:
    (found,) = parent.iterfind(path, {"w": WSSE, "u": WSU})
    return found


class TestOut:
    def test_text(self) -> None:
        made = block(username="ada", password=PASSWORD)
        assert child(made, "w:UsernameToken/w:Username").text == "ada"
        password = child(made, "w:UsernameToken/w:Password")
        assert password.text == PASSWORD
        assert (password.get("Type") or "").endswith("#PasswordText")
        assert made.get(f"{{{S11}}}mustUnderstand") == "1"
        assert len(made) == 1
        assert len(made[0]) == 2

    def test_text_with_a_nonce(self) -> None:
        made = block(username="ada", password="x", nonce=True, must_understand=False)
        assert child(made, "w:UsernameToken/w:Nonce").text
        assert child(made, "w:UsernameToken/u:Created").text
        assert not made.attrib

    def test_the_digest_is_the_one_that_zeep_makes(self, monkeypatch: Any) -> None:
        made = block(username="ada", password=PASSWORD, type="digest")
        encoded, created = (
            child(made, f"w:UsernameToken/{name}").text or "" for name in ("w:Nonce", "u:Created")
        )
        nonce = base64.b64decode(encoded)

        class Raw:
            def encode(self, charset: str) -> bytes:
                return nonce

        monkeypatch.setattr(zeep.wsse.utils, "get_timestamp", lambda *_: created)
        token = UsernameToken("ada", PASSWORD, use_digest=True, nonce=Raw())
        password, *_ = token._create_password_digest()
        assert child(made, "w:UsernameToken/w:Password").text == password.text
        assert child(made, "w:UsernameToken/w:Password").get("Type") == password.get("Type")
        assert len(nonce) == 16

    def test_each_message_has_its_own(self) -> None:
        options = ClientSecurity.model_validate(
            {"username": "a", "password": "b", "type": "digest"}
        )
        assert options.header() != options.header()

    def test_timestamp(self) -> None:
        made = block(timestamp="5m")
        created, expires = (
            datetime.fromisoformat(child(made, f"u:Timestamp/u:{name}").text or "")
            for name in ("Created", "Expires")
        )
        assert expires - created == timedelta(minutes=5)
        assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"username": "a"},
            {"password": "s3cret"},
            {"username": "a", "password": "s3cret\x01"},
        ],
    )
    def test_options_that_are_wrong(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as caught:
            ClientSecurity.model_validate(wrong)
        assert "s3cret" not in str(caught.value)


ROUTE = """
connections:
  legacy:
    soap: {url: "${BACKEND}", security: {username: bus, password: "${PW}", type: %s, timestamp: 5m}}
expose:
  partners:
    wsdl: partner.wsdl
    at: /partners
    connection: legacy
    soap: "%s"
    operations: {getPartner: GET /:id}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PARTNER_WSDL, tmp_path)
    return tmp_path


async def get(where: str, **options: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(where, **options) as answer:
        return answer.status, await answer.json()


class TestThroughTheBus:
    @pytest.mark.parametrize("kind", ["text", "digest"])
    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    async def test_the_bus_asks_a_service_that_it_hosts(
        self, folder: Path, kind: str, version: str
    ) -> None:
        host = """
        routes:
          host:
            from:
              soap:
                wsdl: partner.wsdl
                path: /soap
                security: {users: {bus: "${PW}"}, timestamp: true}
            steps:
              - set: {body: {partner: {name: message.principal, kind: "'person'"}}}
        """
        (folder / "host").mkdir()
        shutil.copy(PARTNER_WSDL, folder / "host")
        async with running(host, folder / "host", environ={"PW": PASSWORD}) as there:
            environ = {"BACKEND": url(there) + "/soap", "PW": PASSWORD}
            async with running(ROUTE % (kind, version), folder, environ=environ) as here:
                for _ in range(2):
                    status, answer = await get(url(here) + "/partners/7")
                    assert (status, answer["partner"]["name"]) == (200, "bus")
            environ["PW"] = "wr0ng"
            async with running(ROUTE % (kind, version), folder, environ=environ) as here:
                status, answer = await get(url(here) + "/partners/7")
                assert status == 502, "the caller is not to blame for the bus's password"
                assert "WS-Security" in answer["detail"]
                assert "wr0ng" not in str(answer)

    def test_a_mistake_is_told_at_its_line(self, folder: Path) -> None:
        project = load_text(
            """\
            connections:
              legacy: {soap: {security: {username: bus}}}
            expose:
              partners:
                wsdl: partner.wsdl
                at: /partners
                operations:
                  getPartner: {at: GET /:id, security: {username: bus, pasword: "s3cret"}}
            """,
            folder,
        )
        assert [(d.line, d.code) for d in project.diagnostics] == [(2, "value"), (8, "unknown-key")]
        assert "s3cret" not in str(project.diagnostics)


class Service:
    """A backend that answers `answer` and keeps what it got."""

    def __init__(self, answer: str, status: int = 200) -> None:
        self.answer = answer.encode()
        self.status = status
        self.got: list[tuple[str, Headers, bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.append(await read_request(reader))
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.answer)}\r\n"
        writer.write(head.encode() + b"Content-Type: text/xml\r\nConnection: close\r\n\r\n")
        writer.write(self.answer)
        await writer.drain()


PASS_ON = """
routes:
  pass-on:
    from: {http: {path: /, method: POST}}
    steps: [{call: {soap: {wsdl: partner.wsdl, operation: getPartner, url: "${BACKEND}" %s}}}]
"""
OWN = ", security: {username: bus, password: geheim}"


async def passed_on(
    service: Service, folder: Path, body: str, options: str = ""
) -> tuple[int, bytes]:
    async with (
        backend(service) as where,
        running(PASS_ON % options, folder, environ={"BACKEND": where}) as bus,
        aiohttp.ClientSession() as session,
        session.post(url(bus), data=body, headers={"content-type": "text/xml"}) as answer,
    ):
        return answer.status, await answer.read()


class TestPassingOn:
    async def test_credentials_of_the_caller_pass(self, folder: Path) -> None:
        service = Service(soap(PARTNER_XML))
        status, _ = await passed_on(service, folder, message(header(text())))
        assert status == 200
        assert b"ada" in service.got[0][2]

    async def test_those_of_the_bus_stand_in_for_them(self, folder: Path) -> None:
        service = Service(soap(PARTNER_XML))
        status, _ = await passed_on(service, folder, message(header(text())), OWN)
        assert status == 200
        sent = service.got[0][2]
        assert b"geheim" in sent
        assert b"ada" not in sent
        assert sent.count(b"UsernameToken>") == 2

    @pytest.mark.parametrize(("options", "status"), [("", 401), (OWN, 502)])
    async def test_whose_they_are_decides_who_is_told(
        self, folder: Path, options: str, status: int
    ) -> None:
        fault = soap(
            f'<s:Fault xmlns:w="{WSSE}"><faultcode>w:FailedAuthentication</faultcode>'
            "<faultstring>user bus: bad password</faultstring></s:Fault>"
        )
        service = Service(fault, 500)
        got, answer = await passed_on(service, folder, message(header(text())), options)
        assert got == status
        assert b"bad password" not in answer

    @pytest.mark.parametrize(
        ("block", "says"),
        [
            (lambda: header(stamp(at(), at(60))), ""),
            (lambda: header(), ""),
            (lambda: header(stamp(at(-7200), at(-3600))), "has expired"),
            (
                lambda: header("<d:Signature xmlns:d='http://www.w3.org/2000/09/xmldsig#'/>"),
                "signatures",
            ),
            (lambda: header(text()), "UsernameToken"),
        ],
    )
    async def test_the_header_of_a_reply(
        self, folder: Path, block: Callable[[], str], says: str
    ) -> None:
        service = Service(message(block(), body=PARTNER_XML))
        status, answer = await passed_on(service, folder, GET, OWN)
        assert (status, says in answer.decode()) == (502 if says else 200, True), answer

    async def test_a_reply_with_more_is_taken_when_told_so(self, folder: Path) -> None:
        signed = header("<d:Signature xmlns:d='http://www.w3.org/2000/09/xmldsig#'/>")
        service = Service(message(signed, body=PARTNER_XML))
        options = OWN + f", understood: ['{{{WSSE}}}Security']"
        status, _ = await passed_on(service, folder, GET, options)
        assert status == 200


def test_a_fault_names_its_standard_in_both_versions() -> None:
    from esb_soap.envelope import write_fault

    code = f"{{{WSSE}}}FailedAuthentication"
    one, two = (
        read_fault(read_envelope(write_fault(v, "sender", "no", subcodes=[code])).fault)  # type: ignore[arg-type]
        for v in ("1.1", "1.2")
    )
    assert (one.code, one.subcodes) == (code, ())
    assert (two.code, two.subcodes) == ("Sender", (code,))
