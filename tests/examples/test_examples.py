"""Each folder of examples/ does what its README says."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import re
import shlex
import ssl
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import hvac  # type: ignore[import-untyped]
import openbao
import pytest
from redis_server import RedisServer
from support.backend import Backend, backend
from support.broker import Rabbit, rabbit
from support.examples import BIN, PROJECT, Bus, Start, running
from support.processes import Process, free_ports, request
from support.waiting import until

EXAMPLES = sorted(path.parent.name for path in (PROJECT / "examples").glob("*/routes.yaml"))


@pytest.fixture
async def broker(own_broker_url: str) -> AsyncIterator[Rabbit]:
    async with rabbit(own_broker_url) as view:
        yield view


@pytest.fixture
def other_service() -> Iterator[Backend]:
    with backend() as one:
        yield one


def test_every_example_is_told_of_and_run() -> None:
    overview = (PROJECT / "examples" / "README.md").read_text()
    here = Path(__file__).read_text()
    for name in EXAMPLES:
        assert f"({name}/)" in overview
        assert f"esb run examples/{name}" in (PROJECT / "examples" / name / "README.md").read_text()
        assert f'start("{name}"' in here
    assert len(EXAMPLES) == 14


def test_each_policy_is_where_the_overview_says() -> None:
    overview = (PROJECT / "examples" / "README.md").read_text()
    _, _, told = overview.partition("## Which policy is where")
    rows = re.findall(r"^\| (.*) \| \[(.*)\]\(.*\) \|$", told, re.MULTILINE)
    assert len(rows) == 5
    for policies, name in rows:
        files = (PROJECT / "examples" / name).rglob("*.*")
        said = "".join(file.read_text() for file in files if file.suffix in (".yaml", ".md"))
        named = re.findall(r"`([^`]+)`", policies)
        assert len(named) > 3
        assert [policy for policy in named if policy not in said] == [], name


def test_soap_as_rest(start: Start, legacy: str) -> None:
    bus = start("soap-as-rest", LEGACY_URL=legacy)
    assert bus.get("/partners/2").json == {
        "name": "Hollis & Sons",
        "status": "blocked",
        "creditLimit": 0,
        "since": "1987-10-19",
        "address": {"city": "Leeds", "country": "GB"},
        "id": 2,
    }
    found = bus.get("/partners?status=active&status=prospect").json
    assert [partner["id"] for partner in found["partner"]] == [1, 3]
    new = {
        "name": "Acme",
        "status": "active",
        "vatId": "ATU1",
        "creditLimit": "1.10",
        "address": {"city": "Vienna", "country": "AT"},
    }
    assert bus.post("/partners", new).json == {"id": 4}
    again = bus.post("/partners", new)
    assert (again.status, again.json["title"]) == (409, "PartnerExists")
    assert again.json["fault"] == {"id": 4, "vatId": "ATU1"}
    known = bus.post("/partners", {**new, "vatId": "ATU2", "@type": "Partner", "id": 1})
    assert known.json == {"id": 5}
    assert bus.get("/partners/5").json["id"] == 5
    assert bus.get(f"/partners?limit={10**30}").status == 200
    wrong = bus.post("/partners", {**new, "status": "dead", "creditLimit": "1.234"})
    assert wrong.status == 400
    assert {error["pointer"] for error in wrong.json["errors"]} == {"/status", "/creditLimit"}
    missing = bus.get("/partners/99")
    assert (missing.status, missing.json["title"]) == (404, "PartnerNotFound")
    document = bus.get("/partners/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]["/partners"]) >= {"get", "post"}


def test_cached_api(start: Start, service: Backend, legacy: str) -> None:
    bus = start("cached-api", ORDERS_URL=service.url, RATES_URL=service.url, LEGACY_URL=legacy)
    answers = [bus.get("/orders/1") for _ in range(7)]
    statuses = [answer.status for answer in answers]
    assert statuses[:5] == [200] * 5  # the sixth may be in the next second
    assert len(service.asked) == 1
    assert answers[1].headers["etag"] == answers[0].headers["etag"]
    assert answers[0].headers["ratelimit-policy"] == '"5-per-1s";q=5;w=1, "daily";q=1000;w=86400'
    service.content = ("application/json", b'{"rate": 0.9}')
    assert [bus.get(f"/total/{n}0/usd").json["euros"] for n in (1, 2)] == [9, 18]
    assert len(service.asked) == 2
    partners = [bus.get("/partners/2").json["name"] for _ in range(2)]
    assert partners == ["Hollis & Sons"] * 2


def test_cached_api_of_two_buses(
    service: Backend, tmp_path: Path, redis_of_its_own: RedisServer
) -> None:
    text = (PROJECT / "examples" / "cached-api" / "README.md").read_text()
    [section] = re.findall(r"```yaml\n(redis:.*?)```", text, re.DOTALL)
    (tmp_path / "shared.yaml").write_text(section)
    environ = {"ORDERS_URL": service.url, "REDIS_URL": redis_of_its_own.url}
    with contextlib.ExitStack() as stack:
        buses = []
        for name in "ab":
            (tmp_path / name).mkdir()
            more = [tmp_path / "shared.yaml"]
            started = running("cached-api", dict(environ), tmp_path / name, more)
            buses.append(stack.enter_context(started))
        answers = [bus.get("/orders/1") for bus in buses]
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].headers["etag"] == answers[1].headers["etag"]
        assert len(service.asked) == 1
        left = [int(re.findall(r'"daily";r=(\d+)', a.headers["ratelimit"])[0]) for a in answers]
        assert left == [999, 998]


def test_rest_to_soap(start: Start, legacy: str) -> None:
    bus = start("rest-to-soap", LEGACY_URL=legacy)
    customer = {
        "company": "Bell & Co <Ltd>",
        "vat": "IE1",
        "city": "Cork",
        "country": "ie",
        "orders": 3,
        "people": [{"name": "Aoife", "mail": "a@bell.example"}, {"name": "Rónán"}],
    }
    answer = bus.post("/customers", customer)
    assert (answer.status, answer.json) == (201, {"number": 4})
    assert answer.headers["location"] == "/partners/4"
    assert bus.post("/customers", customer).status == 409
    assert bus.post("/customers", {"company": "Bell"}).status == 400
    raw = (
        '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
        '<getPartner xmlns="urn:example:partners:v1"><id>4</id></getPartner></e:Body></e:Envelope>'
    )
    stored = request("POST", f"{legacy}/partners", raw.encode(), {"Content-Type": "text/xml"})
    text = stored.body.decode()
    assert "<name>Bell &amp; Co &lt;Ltd&gt;</name>" in text
    assert "<status>active</status>" in text
    assert "<creditLimit>1500.00</creditLimit>" in text
    assert "<country>IE</country>" in text
    assert text.count("<contact>") == 2


def test_mock_first(start: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    folder = PROJECT / "examples" / "mock-first"
    told = re.search(r"^    (esb mock .*) &$", (folder / "README.md").read_text(), re.MULTILINE)
    assert told is not None
    command = shlex.split(told[1].replace("8090", str(port)))
    with Process([BIN / command[0], *command[1:]], cwd=PROJECT) as mock:
        mock.wait_for(f"http://127.0.0.1:{port}/carrier?wsdl")
        bus = start("mock-first", CARRIER_URL=f"http://127.0.0.1:{port}/carrier")
        found = bus.get("/parcels/AT123456")
        assert (found.status, found.json["event"][1]["place"]) == (200, "Vienna")
        unknown = bus.get("/parcels/AT000000")
        assert (unknown.status, unknown.json["fault"]) == (404, {"number": "AT000000"})
        assert bus.get("/parcels/nonsense").status == 400
        order = {"service": "express", "weight": 2.5, "postalCode": "1010", "country": "AT"}
        booked = bus.post("/parcels", order)
        assert (booked.status, booked.json) == (200, {"number": "EX000001", "price": 24.9})
        heavy = bus.post("/parcels", {**order, "weight": 30.5})
        assert (heavy.status, heavy.json["detail"]) == (422, "too heavy for express")
        sample = bus.post("/parcels", {**order, "service": "standard"})
        assert re.fullmatch("[A-Z]{2}[0-9]{6}", sample.json["number"])
        assert b64decode(bus.post("/parcels/labels", {"number": ["AT123456"]}).json["pdf"])
        head = {"X-Mock-Fault": "UnknownParcel"}
        assert request("GET", f"{bus.url}/parcels/AT123456", headers=head).status == 404
        assert mock.stop() == 0
        assert bus.get("/parcels/AT123456").status == 503


async def test_amqp_to_http(
    start: Start, service: Backend, broker: Rabbit, own_broker_url: str
) -> None:
    service.statuses.extend([503, 500, 200])
    start("amqp-to-http", AMQP_URL=own_broker_url, ACCOUNTING_URL=service.url)
    await until(lambda: _consumed(broker, "invoices"))
    body = b'{"number": "2024-17", "total": 99.90}'
    put = partial(broker.put, "invoices", content_type="application/json")
    await put(body)
    await until(lambda: len(service.asked) == 3)
    assert {(one.method, one.path, one.body) for one in service.asked} == {
        ("PUT", "/invoices/2024-17", body)
    }
    await until(lambda: _empty(broker, "invoices"))

    service.statuses.append(422)
    await put(b'{"number": "bad"}')
    dead = await broker.take("invoices.dead")
    assert (dead.body, dead.headers["x-esb-error-code"]) == (b'{"number": "bad"}', "rejected")
    service.statuses.extend([503] * 4)
    await put(b'{"number": "late"}')
    dead = await broker.take("invoices.dead", timeout=20)
    assert (dead.body, dead.headers["x-esb-attempts"]) == (b'{"number": "late"}', "4")


async def _empty(broker: Rabbit, queue: str) -> bool:
    return await broker.ready(queue) == 0


async def test_http_to_amqp(
    start: Start, service: Backend, broker: Rabbit, own_broker_url: str
) -> None:
    bus = start("http-to-amqp", AMQP_URL=own_broker_url, PARCELS_URL=service.url)
    await until(lambda: _consumed(broker, "parcels"))
    event = {"type": "parcel.sent", "subject": "A-1", "data": {"weight": 1}}
    answer = bus.post("/events", event)
    assert (answer.status, list(answer.json)) == (202, ["id"])
    await until(lambda: service.asked)
    assert (service.asked[0].path, service.asked[0].json) == ("/parcels", event)
    assert "x-received" in service.asked[0].headers

    nobody = bus.post("/events", {"type": "customer.new", "subject": "7"})
    assert nobody.status == 502
    assert bus.post("/events", {"type": "other", "subject": "7"}).status == 400


async def _consumed(broker: Rabbit, queue: str) -> bool:
    import aio_pika

    try:
        async with broker.connection.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.consumer_count > 0
    except aio_pika.exceptions.ChannelClosed:
        return False


def test_http_to_amqp_without_a_broker(start: Start) -> None:
    bus = start("http-to-amqp", AMQP_URL=f"amqp://127.0.0.1:{free_ports(1)[0]}/")
    answer = bus.post("/events", {"type": "parcel.sent", "subject": "A-1"})
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")


def test_content_based_router(start: Start, service: Backend, other_service: Backend) -> None:
    bus = start("content-based-router", AUTOMATIC_URL=service.url, DESK_URL=other_service.url)
    claims = [
        ({"kind": "car", "amount": 10000, "country": "AT"}, 200),
        ({"kind": "car", "amount": 10000.01, "country": "AT"}, 202),
        ({"kind": "travel", "amount": 10, "country": "CH"}, 200),
        ({"kind": "travel", "amount": 10, "country": "FR"}, 202),
        ({"kind": "boat", "amount": 10, "country": "FR"}, 400),
    ]
    for claim, status in claims:
        assert bus.post("/claims", claim).status == status, claim
    assert [one.path for one in service.asked] == ["/car", "/travel"]
    bus.process.until(lambda: len(other_service.asked) == 2, "both reach the desk")
    tasks = sorted((one.json for one in other_service.asked), key=json.dumps)
    assert [task["reason"] for task in tasks] == ["large", "abroad"]


@pytest.mark.parametrize("on", ["store", "rabbitmq"])
def test_shop_events(
    start: Start,
    service: Backend,
    other_service: Backend,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    on: str,
) -> None:
    environ, files = {"WAREHOUSE_URL": service.url, "MAIL_URL": other_service.url}, []
    if on == "rabbitmq":
        readme = (PROJECT / "examples/shop-events/README.md").read_text()
        [block] = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
        files.append(tmp_path / "rabbit.yaml")
        files[0].write_text(block)
        environ["AMQP_URL"] = request.getfixturevalue("own_broker_url")
    bus = start("shop-events", *files, **environ)
    service.statuses.extend([503, 503])
    events = [
        {"order": f"A-{number}", "event": event, "express": number == 2}
        for event in ("placed", "changed", "cancelled")
        for number in (1, 2)
    ]
    for event in events:
        bus.process.until(partial(_accepted, bus, event), "the subscriptions are there")
    bus.process.until(lambda: len(service.asked) == 8, "the warehouse has booked all")
    bus.process.until(lambda: len(other_service.asked) == 6, "all mails are sent")
    assert bus.post("/orders", {"order": "1", "event": "placed"}).status == 400
    for order in ("A-1", "A-2"):
        booked = [one.json["event"] for one in service.asked if one.json["order"] == order]
        # Each event waited for the one before, which the warehouse refused at first.
        assert list(dict.fromkeys(booked)) == ["placed", "changed", "cancelled"]
        assert booked == sorted(booked, key=["placed", "changed", "cancelled"].index)


def _accepted(bus: Bus, event: object) -> bool:
    return bus.post("/orders", event).status == 202


def test_csv_folder(start: Start, service: Backend, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    bus = start("csv-folder", SHOP_FOLDER=str(folder), ORDERS_URL=service.url)
    (folder / "orders-1.csv").write_text("number;customer;total\nA-1;Acme;12.50\nA-2;Bell;7\n")
    (folder / "orders-2.csv").write_text("number;customer;total\nB-1;Acme;a lot\n")
    (folder / "notes.txt").write_text("no order")
    bus.process.until(lambda: len(service.asked) == 2, "both orders are told")
    told = sorted((one.method, one.path, one.json) for one in service.asked)
    order = {"number": "A-1", "customer": "Acme", "total": 12.5, "file": "orders-1.csv"}
    assert told[0] == ("PUT", "/orders/A-1", order)
    assert told[1][1] == "/orders/A-2"
    bus.process.until((folder / "failed" / "orders-2.csv").exists, "the wrong one lies apart")
    assert sorted(path.name for path in folder.glob("*.*")) == ["notes.txt"]
    assert (folder / "done" / "orders-1.csv").exists()
    assert len(service.asked) == 2


def test_nightly_report(start: Start, service: Backend, tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    service.content = ("application/json", b'[{"shop": "Vienna", "sales": 120.50}]')
    each_second = {"REPORT_AT": "* * * * * *", "REPORTS": str(reports)}
    bus = start("nightly-report", SHOP_URL=service.url, **each_second)
    bus.process.until(lambda: list(reports.glob("*/*.csv")), "there is a report")
    report = next(iter(reports.glob("*/*.csv")))
    day = f"{report.parent.name}-{report.stem}"
    assert f"/figures?day={day}" in [one.path for one in service.asked]
    assert report.read_text().splitlines() == ["shop;sales", "Vienna;120.50"]


def test_rest_facade(start: Start, legacy: str) -> None:
    bus = start("rest-facade", LEGACY_URL=legacy, ORDERS_URL=legacy)
    assert bus.post("/shop/partners/1/orders", {"orderNumber": "A-1"}).status == 201
    assert bus.post("/shop/partners/3/orders", {"orderNumber": "A-2"}).status == 201
    assert bus.get("/shop/partners/1").json == {
        "name": "Meridian Shipping",
        "city": "Rotterdam",
        "orders": [{"orderNumber": "A-1", "partnerId": 1}],
    }
    assert bus.get("/shop/partners/99").status == 404
    document = bus.get("/shop/openapi.json").json
    assert set(document["paths"]) == {"/shop/partners/{id}", "/shop/partners/{id}/orders"}


def test_outbound_oauth(start: Start) -> None:
    (port,) = free_ports(1)
    service = f"http://127.0.0.1:{port}"
    command = [sys.executable, "examples/outbound-oauth/server.py", "--port", str(port)]
    with Process(command, cwd=PROJECT) as process:
        process.wait_for(f"{service}/orders")
        bus = start("outbound-oauth", ORDERS_URL=service)
        assert [bus.post("/orders", {"n": n}).json for n in (1, 2)] == [
            {"number": 1},
            {"number": 2},
        ]
        assert request("GET", f"{service}/orders").json["tokens"] == 1
        request("POST", f"{service}/revoke")
        assert bus.post("/orders", {"n": 3}).json == {"number": 3}
        assert request("GET", f"{service}/orders").json["tokens"] == 2
        assert bus.post("/shipped", {"order": 1}).status == 202
        for path, way in (
            ("basic",) * 2,
            ("bearer",) * 2,
            ("key", "api_key"),
            ("aws", "aws_sigv4"),
        ):
            assert bus.get(f"/{path}").json == {"shown": way}


@pytest.mark.skipif(not openbao.available(), reason="OpenBao comes for Linux on x86-64 alone")
def test_outbound_oauth_with_a_secret_from_a_vault(start: Start, tmp_path: Path) -> None:
    text = (PROJECT / "examples" / "outbound-oauth" / "README.md").read_text()
    [routes] = re.findall(r"```yaml\n(secrets:.*?)```", text, re.DOTALL)
    (tmp_path / "vaulted.yaml").write_text(routes)
    (port,) = free_ports(1)
    service = f"http://127.0.0.1:{port}"
    command = [sys.executable, "examples/outbound-oauth/server.py", "--port", str(port)]
    with openbao.OpenBao() as vault, Process(command, cwd=PROJECT) as process:
        [line] = re.findall(r"-H (\"X-Vault.*) https://127.0.0.1:8200(.*) -d '(.*)'", text)
        hvac.Client(vault.url, vault.token, verify=str(vault.ca)).adapter.post(
            line[1], json=json.loads(line[2])
        )
        process.wait_for(f"{service}/orders")
        bus = start(
            "outbound-oauth", tmp_path / "vaulted.yaml", ORDERS_URL=service, VAULT_URL=vault.url,
            VAULT_CA=str(vault.ca), VAULT_TOKEN=vault.token,
        )  # fmt: skip
        assert bus.get("/vaulted").json == {"shown": "bearer"}


def test_outbound_oauth_with_a_wrong_secret(start: Start) -> None:
    (port,) = free_ports(1)
    service = f"http://127.0.0.1:{port}"
    command = [sys.executable, "examples/outbound-oauth/server.py", "--port", str(port)]
    with Process(command, cwd=PROJECT) as process:
        process.wait_for(f"{service}/orders")
        bus = start("outbound-oauth", ORDERS_URL=service, ORDERS_CLIENT_SECRET="wrong-one")
        assert bus.post("/orders", {"n": 4}).status == 502
        bus.process.until(lambda: "invalid_client" in bus.process.output)
        assert "wrong-one" not in bus.process.output


def test_secured_api(start: Start, tmp_path: Path) -> None:
    sys.path.insert(0, str(PROJECT / "examples" / "secured-api"))
    try:
        from login import main as login  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    token = login(tmp_path)
    bus = start("secured-api", LOGIN_KEYS=str(tmp_path / "login.jwks.json"))

    def get(path: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request("GET", bus.url + path, headers=named).status

    assert get("/news") == 200
    assert get("/orders/meridian/A-1") == get("/report") == get("/docs") == 401
    assert get("/orders/meridian/A-1", X_API_Key="esb_try-meridian") == 200
    assert get("/orders/hollis/B-1", X_API_Key="esb_try-meridian") == 403
    assert get("/orders/hollis/B-1", X_API_Key="esb_try-hollis-old") == 401
    assert get("/orders/hollis/B-1", X_API_Key="esb_try-hollis-new") == 200
    assert get("/orders/hollis/B-1", Authorization=f"Bearer {token}") == 200
    assert get("/report", Authorization=f"Bearer {token}") == 200
    assert get("/report", Authorization=f"Bearer {token[:-4]}AAAA") == 401
    assert get("/report", X_API_Key="esb_try-meridian") == 401
    order = b'{"order":"A-1"}'
    signed = {
        "X-Hub-Signature-256": f"sha256={hmac.digest(b'only-to-try-it', order, 'sha256').hex()}"
    }
    told = request("POST", f"{bus.url}/shipped", order, signed)
    assert (told.status, told.json) == (200, {"told_by": "shops"})
    assert request("POST", f"{bus.url}/shipped", b"else", signed).status == 401


def test_machines(start: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    certs = PROJECT / "examples" / "machines" / "certs"
    audit = tmp_path / "audit.jsonl"
    environ = {"STOCK_URL": f"https://127.0.0.1:{port}", "AUDIT": str(audit)}
    bus = start("machines", PORT=str(port), **environ)

    def asked(machine: str, method: str, path: str, body: str = "") -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
        if machine:
            context.load_cert_chain(certs / f"{machine}.pem", certs / f"{machine}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/xml"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    with pytest.raises((ssl.SSLError, ConnectionError)):
        asked("", "GET", "/pieces/bolt")
    assert asked("lathe", "GET", "/pieces/bolt") == (200, '{"part":"bolt","pieces":7}')
    assert asked("lathe", "POST", "/pieces/bolt")[0] == 403
    assert asked("press", "POST", "/pieces/bolt")[0] == 400
    assert (
        "<line>bolt</line>" in asked("press", "POST", "/label", '<label copies="2">bolt</label>')[1]
    )
    assert asked("press", "POST", "/label", '<label copies="9999999">bolt</label>')[0] == 500

    def operated(who: str, method: str, path: str) -> int:
        shown = b64encode(f"{who}:try-{who}".encode()).decode()
        headers = {"Authorization": f"Basic {shown}"} if who else {}
        return request(method, bus.admin + path, headers=headers).status

    assert operated("", "GET", "/routes") == operated("nobody", "GET", "/routes") == 401
    assert operated("rolf", "GET", "/routes") == operated("rolf", "GET", "/openapi.json") == 200
    assert operated("rolf", "POST", "/routes/label/stop") == 403
    assert operated("rosa", "POST", "/routes/label/stop") == 200
    assert asked("press", "POST", "/label", "<label/>")[0] == 503
    told = [json.loads(line) for line in audit.read_text().splitlines()]
    assert {(one["action"], one["by"], one["result"]) for one in told} >= {
        ("route taken", "lathe", "denied"),
        ("route stock", "shop", "denied"),
        ("GET /routes", "nobody", "denied"),
        ("POST /routes/label/stop", "rolf", "denied"),
        ("POST /routes/label/stop", "rosa", "done"),
    }
