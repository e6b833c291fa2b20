"""What a Python developer would write to offer a SOAP service as REST: FastAPI, pydantic, zeep."""

from __future__ import annotations

import os
from datetime import date, datetime
from typing import Any

import requests
import zeep
from fastapi import FastAPI
from pydantic import BaseModel, Field
from requests.adapters import HTTPAdapter
from zeep.helpers import serialize_object


class Model(BaseModel, populate_by_name=True):
    """Data under the names that the WSDL gives them."""


class Address(Model):
    street: str
    city: str
    postalCode: str | None = None  # noqa: N815 - named by the WSDL
    country: str


class Customer(Model):
    number: int = Field(alias="@number")
    name: str
    email: str | None = None
    invoiceTo: Address  # noqa: N815
    deliverTo: Address | None = None  # noqa: N815


class Line(Model):
    sku: str
    description: str
    quantity: int
    price: float
    gift: bool
    deliverBy: date | None = None  # noqa: N815


class Order(Model):
    number: str
    placed: datetime
    currency: str
    customer: Customer
    line: list[Line]
    total: float


def service() -> Any:
    """The service of the WSDL at the backend, over connections that are kept alive, one for each
    thread of FastAPI's pool and some to spare."""
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_connections=100, pool_maxsize=100))
    client = zeep.Client(os.environ["WSDL"], transport=zeep.Transport(session=session))
    return client.create_service(
        "{urn:example:orders:v1}OrdersSoap", f"{os.environ['BACKEND']}/soap"
    )


app = FastAPI()
orders = service()


@app.post("/orders/placeOrder", response_model_exclude_none=True)
def place_order(order: Order) -> Order:
    """Takes an order and confirms it as it was taken; in a thread of FastAPI's pool, which needed
    less CPU than zeep's AsyncClient on httpx."""
    reply = orders.placeOrder(**order.model_dump())
    return Order.model_validate(serialize_object(reply, dict))
