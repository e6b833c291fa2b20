"""The data that is sent: orders, of any size."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from esb_soap.envelope import write_envelope
from esb_soap.wsdl import Operation, load_wsdl

WSDL = Path(__file__).with_name("orders.wsdl")
ACTION = "urn:example:orders:v1/placeOrder"


def order(lines: int) -> dict[str, Any]:
    """An order as data of `placeOrder`; it has 18 XML elements, and 7 more a line."""
    address = {"street": "Am Hof 1", "city": "Wien", "postalCode": "1010", "country": "AT"}
    made: list[dict[str, Any]] = [
        {
            "sku": f"AB-{number % 10_000:04}",
            "description": f"Hexagon bolt M8 & washer, no. {number}",
            "quantity": number % 90 + 1,
            "price": Decimal(number % 900 + 1) + Decimal("0.25"),
            "gift": number % 7 == 0,
            "deliverBy": "2030-05-17",
        }
        for number in range(lines)
    ]
    return {
        "number": "2030-000123",
        "placed": "2030-05-02T09:30:00Z",
        "currency": "EUR",
        "customer": {
            "@number": 4711,
            "name": "Müller & Söhne",
            "email": "einkauf@example.com",
            "invoiceTo": address,
            "deliverTo": address,
        },
        "line": made,
        "total": sum((line["price"] * line["quantity"] for line in made), Decimal(0)),
    }


def place_order() -> Operation:
    """The operation that takes an order and answers with one."""
    return load_wsdl(WSDL).services["OrderService"].ports["OrdersPort"].operations["placeOrder"]


def as_json(data: Any) -> bytes:
    """JSON as a REST client would send it."""
    return json.dumps(data, default=float, ensure_ascii=False, separators=(",", ":")).encode()


def json_of(size: int) -> bytes:
    """JSON of exactly `size` bytes: an order's lines, and a note that fills up."""
    body = as_json({"lines": order(size // 180)["line"], "note": ""})
    return body[:-2] + b"x" * (size - len(body)) + b'"}'


def soap_reply(lines: int) -> bytes:
    """The envelope in which a service confirms an order."""
    output = place_order().output
    assert output is not None
    return write_envelope("1.1", output.write(order(lines)).body)


def soap_request(lines: int) -> bytes:
    """The envelope with which a client orders."""
    return write_envelope("1.1", place_order().input.write(order(lines)).body)
