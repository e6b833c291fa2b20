"""Clients of the interop services on stacks of Python that are not ours: zeep and suds.

Each function asks a hosted service for everything it has and returns its account: see `services`.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import suds
import suds.client
import zeep
import zeep.exceptions

Account = dict[str, Any]

PLACED = datetime(2024, 2, 29, 23, 30, 0, 125000, timezone(timedelta(hours=1)))
BYTES = b"\x00\x01\xfe\xff"


def _utc(value: datetime, precision: str = "milliseconds") -> str:
    return value.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _line(line: Any) -> str:
    assert type(line.quantity) is int
    assert type(line.price) is Decimal
    return f"{line.sku} {line.quantity} {line.price} {line.unit or '-'}"


def _address(address: Any) -> str:
    kind = type(address).__name__
    return " ".join([kind, address.street, address.city, address.country])


# --- zeep ----------------------------------------------------------------------------------------


def zeep_orders(wsdl: str, version: str) -> Account:
    client = zeep.Client(wsdl, port_name=f"Orders{version.replace('.', '')}")
    types = client.type_factory("urn:example:orders")
    session = {"session": {"token": "t-1"}}

    def register(customer: str = "Grün & Söhne <GmbH>", sku: str = "A-1") -> Any:
        order = types.Order(
            number=7,
            priority="high",
            customer=customer,
            note=None,
            placed=PLACED,
            cash=Decimal("0.10"),
            line=[
                types.Line(sku=sku, quantity=3, price=Decimal("0.10"), unit="pcs"),
                types.Line(sku="ü", quantity=2, price=Decimal("1234567890.01")),
            ],
            tag=["only one"],
            attachment=BYTES,
            address=types.ForeignAddress(street="Rue 1", city="Lyon", country="FR"),
        )
        return client.service.register(order, _soapheaders=session)

    def fault(**changed: str) -> zeep.exceptions.Fault:
        try:
            register(**changed)
        except zeep.exceptions.Fault as e:
            return e
        raise AssertionError("no fault came")

    def detail(of: zeep.exceptions.Fault) -> Any:
        [child] = of.detail
        return client.wsdl.types.get_element(child.tag).parse(child, client.wsdl.types)

    client.service.cancel(4711)
    answer = register()
    receipt = answer.body.receipt
    order = receipt.order
    out_of_stock, refused = detail(fault(sku="none")), detail(fault(customer="blocked"))
    return {
        "total": str(receipt.total),
        "due": _utc(receipt.due),
        "size": receipt["size"],
        "count": receipt["count"],
        "urgent": receipt.urgent,
        "destination": receipt.destination,
        "number": order.number,
        "priority": order.priority,
        "customer": order.customer,
        "note": order.note,
        "coupon": order.coupon,
        "placed": _utc(order.placed),
        "card": order.card,
        "cash": str(order.cash),
        "lines": [_line(line) for line in order.line],
        "tags": list(order.tag),
        "attachment": order.attachment.hex(),
        "address": _address(order.address),
        "trace": answer.header.trace.id,
        "OutOfStock": f"{out_of_stock.sku} {out_of_stock.left}",
        "Refused": refused.until.isoformat(),
        "failure": fault(customer="broken").message,
        "found": [
            "|".join(_line(line) for line in client.service.find(limit) or [])
            for limit in (0, 1, 3)
        ],
    }


def zeep_prices(wsdl: str, version: str) -> Account:
    client = zeep.Client(wsdl, port_name=f"Prices{version.replace('.', '')}")
    try:
        client.service.lookup("nothing")
    except zeep.exceptions.Fault as e:
        [unknown] = e.detail
    found = client.service.convert(_value_1=Decimal("10.00"), currency="EUR")
    return {
        "price": str(client.service.lookup("A-1")),
        "amounts": [f"{amount._value_1} {amount.currency}" for amount in found],
        "none": client.service.convert(_value_1=Decimal(1), currency="XXX") or [],
        "unknown": unknown.text,
    }


def zeep_quotes(wsdl: str, version: str) -> Account:
    client = zeep.Client(wsdl, port_name=f"Quotes{version.replace('.', '')}")
    options = {"gift": True, "colour": ["red"]}
    answer = client.service.quote("A-1", 3, options)
    try:
        client.service.quote("A-1", 1001, options)
    except zeep.exceptions.Fault as e:
        [too_many] = e.detail
    return {
        "price": str(answer.price),
        "delivery": answer.delivery.isoformat(),
        "gift": answer.options.gift,
        "colours": answer.options.colour,
        "TooMany": too_many.text,
    }


# --- suds, which speaks SOAP 1.1 alone, and rpc/encoded; it drops trailing zeros -----------------


def _suds(wsdl: str) -> suds.client.Client:
    return suds.client.Client(wsdl, cache=None)


def _filled(client: suds.client.Client, kind: str, /, **values: Any) -> Any:
    made = client.factory.create(kind)
    for key, value in values.items():
        setattr(made, key, value)
    return made


def _money(value: Decimal) -> str:
    assert type(value) is Decimal
    return f"{value:.2f}"


def _suds_fault(call: Callable[[], Any]) -> Any:
    try:
        call()
    except suds.WebFault as e:
        return e.fault
    raise AssertionError("no fault came")


def suds_orders(wsdl: str, version: str) -> Account:
    client = _suds(wsdl)
    client.set_options(port="Orders11", soapheaders={"Session": {"token": "t-1"}})

    def line(line: Any) -> str:
        unit = getattr(line, "_unit", "-")
        return f"{line.sku} {line.quantity} {_money(line.price)} {unit}"

    def register(customer: str = "Grün & Söhne <GmbH>", sku: str = "A-1") -> Any:
        cents = Decimal("0.10")
        order = _filled(
            client,
            "Order",
            _number=7,
            _priority="high",
            customer=customer,
            placed=PLACED,
            cash=cents,
            line=[
                _filled(client, "Line", sku=sku, quantity=3, price=cents, _unit="pcs"),
                {"sku": "ü", "quantity": 2, "price": Decimal("1234567890.01")},
            ],
            tag=["only one"],
            attachment=b64encode(BYTES).decode(),
            address=_filled(client, "ForeignAddress", street="Rue 1", city="Lyon", country="FR"),
        )
        return client.service.register(order)

    receipt = register()
    trace = client.last_received().childAtPath("Envelope/Header/Trace/id").getText()
    order = receipt.order
    none = _suds_fault(lambda: register(sku="none")).detail.OutOfStock
    client.service.cancel(4711)
    return {
        "total": _money(receipt.total),
        "due": _utc(receipt.due),
        "size": receipt.size,
        "count": receipt.count,
        "urgent": receipt.urgent,
        "destination": str(receipt.destination),
        "number": order._number,
        "priority": order._priority,
        "customer": str(order.customer),
        "note": order.note,
        "coupon": getattr(order, "coupon", None),
        "placed": _utc(order.placed),
        "card": getattr(order, "card", None),
        "cash": _money(order.cash),
        "lines": [line(one) for one in order.line],
        "tags": order.tag,
        "attachment": b64decode(order.attachment).hex(),
        "address": _address(order.address),
        "trace": str(trace),
        "OutOfStock": f"{none.sku} {none.left}",
        "Refused": str(_suds_fault(lambda: register("blocked")).detail.Refused.until),
        "failure": str(_suds_fault(lambda: register("broken")).faultstring),
        "found": ["|".join(line(one) for one in client.service.find(n)) for n in (0, 1, 3)],
    }


def suds_quotes(wsdl: str, version: str) -> Account:
    client = _suds(wsdl)
    client.set_options(port="Quotes11")
    options = {"gift": True, "colour": ["red"]}
    answer = client.service.quote("A-1", 3, options)
    too_many = _suds_fault(lambda: client.service.quote("A-1", 1001, options))
    return {
        "price": _money(answer.price),
        "delivery": answer.delivery.isoformat(),
        "gift": answer.options.gift,
        "colours": answer.options.colour,
        "TooMany": str(too_many.detail.TooMany),
    }


def suds_staff(wsdl: str, version: str) -> Account:
    client = _suds(wsdl)

    def person(name: str, pay: str, since: str, photo: str | None, manager: Any) -> Any:
        values = {"name": name, "pay": Decimal(pay), "since": since}
        return _filled(client, "Person", **values, photo=photo, manager=manager)

    since = "2001-02-03T04:05:06Z"
    boss = person("Chief", "99.99", "1999-12-31T23:59:59Z", b64encode(BYTES).decode(), None)
    people = [person("Bö", "10.50", since, None, boss), person("Al", "0.01", since, None, boss)]
    report = client.service.report("all", _filled(client, "People", item=[*people, boss]))
    oldest = report.oldest
    photos = [person.photo for person in report.people]
    return {
        "names": [str(name) for name in report.names],
        "payroll": _money(report.payroll),
        "bytes": report.bytes,
        "oldest": f"{oldest.name} {oldest.pay} {_utc(oldest.since, 'seconds')} "
        + b64decode(oldest.photo).hex(),
        "managers": [person.manager and str(person.manager.name) for person in report.people],
        "photos": [photo and b64decode(photo).hex() for photo in photos],
    }


# --- what each can be asked for ------------------------------------------------------------------


PYTHON_CLIENTS: dict[tuple[str, str, str], Callable[[str, str], Account]] = {
    ("zeep", "orders", "1.1"): zeep_orders,
    ("zeep", "orders", "1.2"): zeep_orders,
    ("zeep", "prices", "1.1"): zeep_prices,
    ("zeep", "prices", "1.2"): zeep_prices,
    ("zeep", "quotes", "1.1"): zeep_quotes,
    ("zeep", "quotes", "1.2"): zeep_quotes,
    ("suds", "orders", "1.1"): suds_orders,
    ("suds", "quotes", "1.1"): suds_quotes,
    ("suds", "staff", "1.1"): suds_staff,
}
"""Clients by stack, service and version of SOAP. Left out: suds takes bare messages for wrapped,
zeep wants to fetch the schema of the SOAP encoding from the network."""
