"""What the four services of the interop tests do, written once in terms of our own data.

Every peer's server does the same in its own types, and every peer's client tells what it saw as an
"account". So a value that some stack reads or writes wrongly shows in a sum, a date or an account.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from esb.envelope import Body, Envelope
from esb.errors import Fault

ORDER: dict[str, Any] = {
    "@number": 7,
    "@priority": "high",
    "customer": "Grün & Söhne <GmbH>",
    "note": None,
    "placed": "2024-02-29T23:30:00.125+01:00",
    "cash": Decimal("0.10"),
    "line": [
        {"@unit": "pcs", "sku": "A-1", "quantity": 3, "price": Decimal("0.10")},
        {"sku": "ü", "quantity": 2, "price": Decimal("1234567890.01")},
    ],
    "tag": ["only one"],
    "attachment": "AAH+/w==",
    "address": {"@type": "ForeignAddress", "street": "Rue 1", "city": "Lyon", "country": "FR"},
}
SESSION = {"$headers": {"Session": {"token": "t-1"}}}
"""The header that every registration carries; its answer carries the trace "t-1/7"."""

PERSON = {"name": "Bö", "pay": Decimal("10.50"), "since": "2001-02-03T04:05:06Z"}
BOSS = {"name": "Chief", "pay": Decimal("99.99"), "since": "1999-12-31T23:59:59Z"}
BOSS |= {"photo": "AAH+/w==", "manager": None}
STAFF: dict[str, Any] = {
    "title": "all",
    "people": [
        {**PERSON, "photo": None, "manager": BOSS},
        {**PERSON, "name": "Al", "pay": Decimal("0.01"), "photo": None, "manager": BOSS},
        BOSS,
    ],
}

OPTIONS = {"gift": True, "colour": ["red"]}

ACCOUNTS: dict[str, dict[str, Any]] = {
    "orders": {
        "total": "2469135780.32",
        "due": "2024-03-01T22:30:00.125Z",
        "size": 4,
        "count": 5,
        "urgent": True,
        "destination": "ForeignAddress",
        "number": 7,
        "priority": "high",
        "customer": "Grün & Söhne <GmbH>",
        "note": None,
        "coupon": None,
        "placed": "2024-02-29T22:30:00.125Z",
        "card": None,
        "cash": "0.10",
        "lines": ["A-1 3 0.10 pcs", "ü 2 1234567890.01 -"],
        "tags": ["only one"],
        "attachment": "0001feff",
        "address": "ForeignAddress Rue 1 Lyon FR",
        "trace": "t-1/7",
        "OutOfStock": "none 0",
        "Refused": "2025-01-31",
        "failure": "the warehouse is closed",
        "found": ["", "S-1 1 0.50 -", "S-1 1 0.50 -|S-2 2 1.00 -|S-3 3 1.50 -"],
    },
    "prices": {
        "price": "12.50",
        "amounts": ["10.00 EUR", "10.80 USD"],
        "none": [],
        "unknown": "nothing",
    },
    "quotes": {
        "price": "37.50",
        "delivery": "2024-03-01",
        "gift": True,
        "colours": ["red"],
        "TooMany": "1000",
    },
    "staff": {
        "names": ["Bö", "Al", "Chief"],
        "payroll": "110.50",
        "bytes": 4,
        "oldest": "Chief 99.99 1999-12-31T23:59:59Z 0001feff",
        "managers": ["Chief", "Chief", None],
        "photos": [None, None, "0001feff"],
    },
}
"""What a client tells of each service, whoever serves it."""


def register(data: dict[str, Any]) -> dict[str, Any]:
    """The answer to `register`: what follows from the order's values, and the order itself."""
    order = data["order"]
    lines = order.get("line", [])
    if any(line["sku"] == "none" for line in lines):
        raise Fault(
            "out of stock", name="OutOfStock", party="sender", data={"sku": "none", "left": 0}
        )
    if order["customer"] == "blocked":
        raise Fault("refused", name="Refused", party="sender", data={"until": "2025-01-31"})
    if order["customer"] == "broken":
        raise Fault("the warehouse is closed")
    due = datetime.fromisoformat(order["placed"]) + timedelta(days=1)
    receipt = {
        "total": sum((line["quantity"] * line["price"] for line in lines), Decimal()),
        "due": due.isoformat(timespec="milliseconds"),
        "size": len(order.get("attachment", "")) // 4 * 3 - order.get("attachment", "").count("="),
        "count": sum(line["quantity"] for line in lines),
        "urgent": order.get("@priority") == "high",
        "destination": order["address"].get("@type", "Address"),
        "order": order,
    }
    trace = f"{data['$headers']['Session']['token']}/{order['@number']}"
    return {"receipt": receipt, "$headers": {"Trace": {"id": trace}}}


def find(data: dict[str, Any]) -> dict[str, Any]:
    """As many lines as were asked for."""
    price = Decimal("0.50")
    numbers = range(1, data["limit"] + 1)
    return {"line": [{"sku": f"S-{n}", "quantity": n, "price": n * price} for n in numbers]}


def lookup(sku: str) -> Any:
    if sku != "A-1":
        raise Fault("no such article", name="unknown", party="sender", data=sku)
    return Decimal("12.50")


def convert(amount: dict[str, Any]) -> Any:
    """The amount in two currencies; nothing for a currency that has no rate."""
    if amount["@currency"] != "EUR":
        return {}
    dollars = (amount["#text"] * Decimal("1.08")).quantize(Decimal("0.01"))
    return {"amount": [amount, {"@currency": "USD", "#text": dollars}]}


def quote(data: dict[str, Any]) -> dict[str, Any]:
    if data["quantity"] > 1000:
        raise Fault("too many", name="TooMany", party="sender", data=1000)
    delivery = date(2024, 2, 27) + timedelta(days=data["quantity"])
    price = data["quantity"] * Decimal("12.50")
    return {"price": price, "delivery": delivery.isoformat(), "options": data["options"]}


def report(data: dict[str, Any]) -> dict[str, Any]:
    people = data["people"]
    oldest = min(people, key=lambda p: datetime.fromisoformat(p["since"]))
    return {
        "report": {
            "names": [person["name"] for person in people],
            "payroll": sum((person["pay"] for person in people), Decimal()),
            "bytes": sum(
                3 * (len(p["photo"]) // 4) - p["photo"].count("=") for p in people if p["photo"]
            ),
            "oldest": oldest,
            "people": people,
        }
    }


OPERATIONS: dict[str, Any] = {
    "register": register,
    "find": find,
    "cancel": lambda data: None,
    "lookup": lookup,
    "convert": convert,
    "quote": quote,
    "report": report,
}


async def serve(message: Envelope) -> Envelope:
    """The services as a route's step."""
    answer = OPERATIONS[message.subject](message.body.data)
    return message.reply(Body.of(answer))


def instant(text: str) -> datetime:
    """A moment, whatever zone and precision it was written in."""
    return datetime.fromisoformat(text).astimezone(UTC)
