"""Clients of the interop services on stacks of Python that are not ours: zeep and suds.

Each function asks a hosted service for everything it has and returns its account: see `services`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import zeep
import zeep.exceptions

Account = dict[str, Any]

PLACED = datetime(2024, 2, 29, 23, 30, 0, 125000, timezone(timedelta(hours=1)))
BYTES = b"\x00\x01\xfe\xff"


def _utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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


# --- what each can be asked for ------------------------------------------------------------------


def _as_client(client: Callable[[str, str], Account]) -> Callable[[str, str, str], Account]:
    return lambda service, wsdl, version: client(wsdl, version)


PYTHON_CLIENTS: dict[tuple[str, str, str], Callable[[str, str, str], Account]] = {
    **{
        ("zeep", service, version): _as_client(client)
        for service, client in (
            ("orders", zeep_orders),
            ("prices", zeep_prices),
            ("quotes", zeep_quotes),
        )
        for version in ("1.1", "1.2")
    },
}
"""Clients by stack, service and version of SOAP."""
