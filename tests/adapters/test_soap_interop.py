"""SOAP stacks that are not ours, as clients of what we host and as services behind `expose` and
`call: soap`: PHP, node, Java and Perl (where they are installed), zeep, suds and spyne.

All have the same four services (`support.peers.services`), which between them have every style of
SOAP and every kind of type: what one side gets wrong shows in what the other makes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import running, url
from support.peers import HERE, spyne_orders, wsgi_service
from support.peers.clients import PYTHON_CLIENTS
from support.peers.services import (
    ACCOUNTS,
    OPTIONS,
    ORDER,
    SESSION,
    STAFF,
    find,
    instant,
    quote,
    register,
    report,
    serve,
)
from support.peers.stacks import ENCODED, JAVA, LITERAL, NODE, STACKS, Missing, Stack
from support.soap import hosted
from support.stores import opened
from support.waiting import until

from esb.errors import Fault

pytestmark = pytest.mark.timeout(600)  # whoever comes first fetches and compiles
VERSIONS = ("1.1", "1.2")


def needs(stack: Stack) -> list[pytest.MarkDecorator]:
    why = stack.missing()
    return [pytest.mark.peer(stack.name), pytest.mark.skipif(bool(why), reason=why or "it is here")]


def both_versions(service: str) -> tuple[str, ...]:
    return ("1.1",) if service == ENCODED else VERSIONS


CLIENTS = [
    *(
        pytest.param(stack.account, stack.name, service, version,
                     id=f"{stack.name}-{service}-{version}", marks=needs(stack))
        for stack in STACKS
        for service in stack.services
        for version in both_versions(service)
    ),
    *(
        pytest.param(lambda service, wsdl, version, ask=ask: ask(wsdl, version),
                     name, service, version, id=f"{name}-{service}-{version}")
        for (name, service, version), ask in PYTHON_CLIENTS.items()
    ),
]  # fmt: skip

SERVERS = [
    pytest.param((stack, version), id=f"{stack.name}-{version}", marks=needs(stack))
    for stack in STACKS
    if stack.services != (ENCODED,)
    for version in VERSIONS
]


def copy_wsdls(folder: Path, stack: str) -> Path:
    """The WSDLs as this stack understands them."""
    for name in (*LITERAL, ENCODED):
        text = (HERE / f"{name}.wsdl").read_text()
        if stack == NODE.name:
            # It takes the WSDL's namespace for that of rpc calls, whatever soap:body says.
            text = text.replace("urn:example:quotes:call", "urn:example:quotes")
        (folder / f"{name}.wsdl").write_text(text)
    return folder


def same_instants(value: Any) -> Any:
    """Data with every dateTime as the moment it is."""
    if isinstance(value, dict):
        return {k: same_instants(v) for k, v in value.items()}
    if isinstance(value, list):
        return [same_instants(v) for v in value]
    if isinstance(value, str) and len(value) >= 20 and value[10] == "T":
        return instant(value)
    return value


Account = Callable[..., dict[str, Any]]


async def told(account: Account, *arguments: str) -> dict[str, Any]:
    """What a client tells, asked in a thread."""
    try:
        return await asyncio.to_thread(account, *arguments)
    except Missing as e:
        pytest.skip(str(e))


@pytest.mark.parametrize(("account", "name", "service", "version"), CLIENTS)
async def test_client(
    tmp_path: Path, account: Account, name: str, service: str, version: str
) -> None:
    """A client reads our ?wsdl, asks for everything, and both sides got what the other meant."""
    async with hosted(serve, copy_wsdls(tmp_path, name), wsdl=f"{service}.wsdl") as client:
        assert await told(account, service, f"{client.url}?wsdl", version) == ACCOUNTS[service]
        got = [(message.subject, message.body.data) for message in client.seen]
    asked = {
        "orders": ("register", {"order": ORDER, **SESSION}),
        "prices": ("convert", {"@currency": "EUR", "#text": Decimal("10.00")}),
        "quotes": ("quote", {"sku": "A-1", "quantity": 3, "options": OPTIONS}),
        "staff": ("report", STAFF),
    }
    operation, data = asked[service]
    assert (operation, same_instants(data)) in [(name, same_instants(one)) for name, one in got]
    if service == "orders":
        assert ("cancel", {"number": 4711}) in got


def split(wsdl: Path) -> None:
    """Put the types of a WSDL into a file of their own, and all but its bindings and service into
    another, as code generators do."""
    text = wsdl.read_text()
    head, definitions, rest = re.split(r"(<wsdl:definitions.*?>)", text, maxsplit=1, flags=re.S)
    schema = re.search(r"<xsd:schema.*</xsd:schema>", rest, re.S)
    assert schema is not None
    names = " ".join(re.findall(r'xmlns:(?:tns|xsd)="[^"]*"', definitions))
    opened, elements = schema[0].split(">", 1)
    (wsdl.parent / "types.xsd").write_text(f"{head}{opened} {names}>{elements}")
    imported = (
        '<xsd:schema><xsd:import namespace="urn:example:orders" schemaLocation="types.xsd"/>'
        "</xsd:schema>"
    )
    abstract, concrete = re.split(r"(?=<wsdl:binding)", rest, maxsplit=1)
    (wsdl.parent / "abstract.wsdl").write_text(
        head + definitions + abstract.replace(schema[0], imported) + "</wsdl:definitions>"
    )
    reference = '<wsdl:import namespace="urn:example:orders" location="abstract.wsdl"/>'
    wsdl.write_text(head + definitions + reference + concrete)


@pytest.mark.parametrize(
    ("account", "name", "service", "version"),
    [client for client in CLIENTS if client.values[2:] == ("orders", "1.1")],
)
async def test_client_reads_many_files(
    tmp_path: Path, account: Account, name: str, service: str, version: str
) -> None:
    """What our ?wsdl imports is found where it says, by every client."""
    split(copy_wsdls(tmp_path, name) / "orders.wsdl")
    async with hosted(serve, tmp_path, wsdl="orders.wsdl") as client:
        assert await told(account, service, f"{client.url}?wsdl", version) == ACCOUNTS["orders"]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Stack], Any]]:
    """Gives the base URL of a stack's server, started when first asked for, and its folder."""
    with contextlib.ExitStack() as started:
        known: dict[str, tuple[str, Path]] = {}

        def address(stack: Stack) -> tuple[str, Path]:
            if stack.name not in known:
                folder = tmp_path_factory.mktemp(stack.name)
                try:
                    known[stack.name] = started.enter_context(stack.serving(folder)), folder
                except Missing as e:
                    pytest.skip(str(e))
            return known[stack.name]

        yield address


def written(data: Any) -> str:
    """Data as JSON; every number among ours survives being a float."""
    return json.dumps(data, default=float)


class Api:
    """The services of a stack, exposed as REST."""

    def __init__(self, url: str, http: aiohttp.ClientSession, notes: Path) -> None:
        self.url = url
        self.notes = notes
        self._http = http

    async def post(self, path: str, data: Any) -> tuple[int, Any]:
        headers = {"content-type": "application/json"}
        async with self._http.post(self.url + path, data=written(data), headers=headers) as answer:
            return answer.status, json.loads(await answer.text(), parse_float=Decimal)


async def cancelled(api: Api) -> None:
    """Cancels an order, a one-way call, and waits for its trace."""
    number = secrets.randbelow(10**9)
    status, _ = await api.post("/orders/cancel", {"number": number})
    assert status == 202
    await until(lambda: api.notes.exists() and f"cancelled {number}\n" in api.notes.read_text())


@pytest.fixture
async def api(
    request: pytest.FixtureRequest, addresses: Callable[[Stack], Any], tmp_path: Path
) -> AsyncIterator[Api]:
    stack, version = request.param
    base, folder = await asyncio.to_thread(addresses, stack)
    copy_wsdls(tmp_path, stack.name)
    text = "expose:\n" + "".join(
        f"  {service}: {{wsdl: {service}.wsdl, at: /{service}, soap: '{version}', "
        f"url: '{stack.address(base, service, version)}'}}\n"
        for service in stack.services
        if version in both_versions(service)
    )
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
        yield Api(url(bus), http, folder / "notes")


@pytest.mark.parametrize("api", SERVERS, indirect=True)
class TestServer:
    async def test_values_and_headers(self, api: Api) -> None:
        """What the service computes from our values, and the values as they come back."""
        asked = {"order": ORDER, **SESSION}
        status, answer = await api.post("/orders/register", asked)
        assert (status, same_instants(answer)) == (200, same_instants(register(asked)))

    async def test_what_may_be_left_out(self, api: Api) -> None:
        order = {k: v for k, v in ORDER.items() if k not in ("line", "tag", "attachment", "cash")}
        order |= {"note": "a note", "coupon": "", "card": "4711"}
        order["address"] = {"street": "<&>", "city": "]]>"}
        del order["@priority"]
        asked = {"order": order, **SESSION}
        status, answer = await api.post("/orders/register", asked)
        assert status == 200
        expected = register(asked)
        expected["receipt"]["total"] = answer["receipt"]["total"]  # 0 or 0.00
        assert answer["receipt"]["total"] == 0
        assert same_instants(answer) == same_instants(expected)

    @pytest.mark.parametrize(
        ("changed", "status", "title", "data"),
        [
            ({"line": [{**ORDER["line"][0], "sku": "none"}]}, 422, "OutOfStock",
             {"sku": "none", "left": 0}),
            ({"customer": "blocked"}, 422, "Refused", {"until": "2025-01-31"}),
            ({"customer": "broken"}, 502, "The service answered with a fault", None),
        ],
    )  # fmt: skip
    async def test_faults(
        self, api: Api, changed: dict[str, Any], status: int, title: str, data: Any
    ) -> None:
        asked = {"order": {**ORDER, **changed}, **SESSION}
        got, answer = await api.post("/orders/register", asked)
        assert (got, answer["title"], answer.get("fault")) == (status, title, data)
        if data is None:
            assert answer["detail"] == "the warehouse is closed"

    @pytest.mark.parametrize("limit", [0, 1, 3])
    async def test_lists(self, api: Api, limit: int) -> None:
        status, answer = await api.post("/orders/find", {"limit": limit})
        assert (status, answer.get("line", [])) == (200, find({"limit": limit})["line"])

    async def test_one_way(self, api: Api) -> None:
        number = secrets.randbelow(10**9)
        status, _ = await api.post("/orders/cancel", {"number": number})
        assert status == 202
        await until(lambda: api.notes.exists() and f"cancelled {number}\n" in api.notes.read_text())

    async def test_bare(self, api: Api) -> None:
        assert await api.post("/prices/lookup", "A-1") == (200, Decimal("12.50"))
        status, answer = await api.post("/prices/lookup", "nothing")
        assert (status, answer["title"], answer["fault"]) == (422, "unknown", "nothing")
        euros = {"@currency": "EUR", "#text": 10}
        dollars = {"@currency": "USD", "#text": Decimal("10.8")}
        assert await api.post("/prices/convert", euros) == (200, {"amount": [euros, dollars]})
        assert await api.post("/prices/convert", {**euros, "@currency": "XXX"}) == (200, {})

    async def test_rpc_literal(self, api: Api) -> None:
        asked = {"sku": "A-1", "quantity": 3, "options": {"gift": False, "colour": ["red", "blue"]}}
        assert await api.post("/quotes/quote", asked) == (200, quote(asked))
        status, answer = await api.post("/quotes/quote", {**asked, "quantity": 1001})
        assert (status, answer["title"], answer["fault"]) == (422, "TooMany", 1000)


ENCODING = [pytest.param(s, id=s.name, marks=needs(s)) for s in STACKS if ENCODED in s.services]


@pytest.mark.parametrize("stack", ENCODING)
async def test_rpc_encoded_server(
    addresses: Callable[[Stack], Any], tmp_path: Path, stack: Stack
) -> None:
    """Arrays, structs, and one object in several places of an answer, by `call: soap`."""
    base, _ = await asyncio.to_thread(addresses, stack)
    shutil.copy(HERE / "staff.wsdl", tmp_path)
    text = "routes:\n" + "".join(
        f"""
  {form}:
    from: {{http: {{path: /{form}, method: POST}}}}
    steps:
      - call:
          soap:
            wsdl: staff.wsdl
            operation: report
            url: {stack.address(base, ENCODED, "1.1")}
            reply: {form}
"""
        for form in ("data", "envelope")
    )
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
        status, answer = await Api(url(bus), http, tmp_path).post("/data", STAFF)
        assert (status, same_instants(answer)) == (200, same_instants(report(STAFF)))
        async with http.post(url(bus) + "/envelope", json=json.loads(written(STAFF))) as reply:
            assert (' href="#' in await reply.text()) == stack.refers


@pytest.mark.parametrize("stack", ENCODING)
async def test_rpc_encoded_client_refers(stack: Stack) -> None:
    """What `test_client` reads from some is not there in place, so it was followed."""
    enough = Fault("enough seen")
    async with hosted(enough, wsdl="staff.wsdl", body="envelope") as client:
        with pytest.raises(AssertionError, match="enough seen"):
            await told(stack.account, ENCODED, f"{client.url}?wsdl", "1.1")
        assert (b' href="#' in client.seen[0].body.raw) == stack.refers


@pytest.mark.parametrize("version", VERSIONS)
async def test_spyne_server(tmp_path: Path, version: str) -> None:
    """A WSDL that is not ours either: headers, attributes, enumerations, xsi:type, a fault that is
    told by its code."""
    with wsgi_service(spyne_orders.application(version)) as where:
        wsdl = await asyncio.to_thread(lambda: urllib.request.urlopen(where + "?wsdl").read())
        (tmp_path / "orders.wsdl").write_bytes(wsdl)
        text = "expose: {orders: {wsdl: orders.wsdl, at: /orders}}"
        async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
            api = Api(url(bus), http, tmp_path)
            asked = {"order": ORDER, **SESSION}
            status, answer = await api.post("/orders/register", asked)
            answer["receipt"] = answer.pop("registerResult")
            assert (status, same_instants(answer)) == (200, same_instants(register(asked)))
            asked["order"] = {**ORDER, "line": [{**ORDER["line"][0], "sku": "none"}]}
            status, answer = await api.post("/orders/register", asked)
            assert (status, answer["title"]) == (422, "OutOfStock")


# --- WS-Security and WS-Addressing ---------------------------------------------------------------

PASSWORD = "s3cret & <more>"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stack", [pytest.param(NODE, marks=needs(NODE), id="node")])
class TestSecurity:
    """UsernameToken with a digest, and Timestamp."""

    async def test_client(self, tmp_path: Path, stack: Stack, version: str) -> None:
        security = {"users": {"ada": PASSWORD}, "type": "digest", "timestamp": True}
        async with (
            opened(tmp_path / "bus.db") as store,
            hosted(serve, store=store, wsdl="prices.wsdl", security=security) as client,
        ):
            ask = (stack.account, "prices", f"{client.url}?wsdl", version)
            assert await told(*ask, PASSWORD) == ACCOUNTS["prices"]
            assert {message.principal for message in client.seen} == {"ada"}
            seen = len(client.seen)
            with pytest.raises(AssertionError, match="FailedAuthentication"):
                await told(*ask, "wrong")
            assert len(client.seen) == seen

    async def test_server(
        self, addresses: Callable[[Stack], Any], tmp_path: Path, stack: Stack, version: str
    ) -> None:
        base, _ = await asyncio.to_thread(addresses, stack)
        copy_wsdls(tmp_path, stack.name)
        at = stack.address(f"{base}/secured", "prices", version)
        text = f"""
        expose:
          prices:
            wsdl: prices.wsdl
            at: /prices
            soap: "{version}"
            url: {at}
            security: {{username: ada, password: "${{PASSWORD}}", type: digest, timestamp: 60s}}
        """
        for password, expected in ((PASSWORD, 200), ("wrong", 502)):
            environ = {"PASSWORD": password}
            async with (
                running(text, tmp_path, environ=environ) as bus,
                aiohttp.ClientSession() as http,
            ):
                status, _ = await Api(url(bus), http, tmp_path).post("/prices/lookup", "A-1")
                assert status == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stack", [pytest.param(JAVA, marks=needs(JAVA), id="java")])
class TestAddressing:
    """Headers of WS-Addressing, which each side wants of the other; also of faults and of calls
    that have no answer."""

    async def test_client(self, stack: Stack, version: str) -> None:
        async with hosted(serve, wsdl="orders.wsdl", addressing="require") as client:
            ask = (stack.account, "orders", f"{client.url}?wsdl", version)
            assert await told(*ask, "addressing") == ACCOUNTS["orders"]

    async def test_server(
        self, addresses: Callable[[Stack], Any], tmp_path: Path, stack: Stack, version: str
    ) -> None:
        base, folder = await asyncio.to_thread(addresses, stack)
        copy_wsdls(tmp_path, stack.name)
        text = f"""
        expose:
          orders:
            wsdl: orders.wsdl
            at: /orders
            soap: "{version}"
            url: {stack.address(f"{base}/addressed", "orders", version)}
            addressing: %s
        """
        asked = {"order": ORDER, **SESSION}
        blocked = {**asked, "order": {**ORDER, "customer": "blocked"}}
        async with running(text % "2005/08", tmp_path) as bus, aiohttp.ClientSession() as http:
            api = Api(url(bus), http, folder / "notes")
            status, answer = await api.post("/orders/register", asked)
            assert (status, same_instants(answer)) == (200, same_instants(register(asked)))
            status, answer = await api.post("/orders/register", blocked)
            assert (status, answer["title"]) == (422, "Refused")
            await cancelled(api)
        async with running(text % "none", tmp_path) as bus, aiohttp.ClientSession() as http:
            status, answer = await Api(url(bus), http, tmp_path).post("/orders/register", asked)
            assert status == (502 if version == "1.1" else 400)  # nobody or the sender is blamed
            assert "required header" in answer["detail"]
