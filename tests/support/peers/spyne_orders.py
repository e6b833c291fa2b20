"""The orders of the interop services on spyne, which makes its WSDL from these classes."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal as Number
from typing import Any

from spyne import (
    Application,
    Boolean,
    ByteArray,
    ComplexModel,
    DateTime,
    Decimal,
    Enum,
    Fault,
    Integer32,
    ServiceBase,
    Unicode,
    XmlAttribute,
    rpc,
)
from spyne.protocol.soap import Soap11, Soap12
from spyne.server.wsgi import WsgiApplication

NS = "urn:example:orders"

Priority = Enum("low", "high", type_name="Priority")


class Address(ComplexModel):
    __namespace__ = NS
    street = Unicode(min_occurs=1)
    city = Unicode(min_occurs=1)


class ForeignAddress(Address):
    __namespace__ = NS
    country = Unicode(min_occurs=1)


class Line(ComplexModel):
    __namespace__ = NS
    sku = Unicode(min_occurs=1)
    quantity = Integer32(min_occurs=1)
    price = Decimal(min_occurs=1)
    unit = XmlAttribute(Unicode)


class Order(ComplexModel):
    __namespace__ = NS
    customer = Unicode(min_occurs=1)
    note = Unicode(min_occurs=1, nillable=True)
    placed = DateTime(min_occurs=1)
    cash = Decimal
    line = Line.customize(max_occurs="unbounded")
    tag = Unicode(max_occurs="unbounded")
    attachment = ByteArray
    address = Address.customize(min_occurs=1)
    number = XmlAttribute(Integer32, use="required")
    priority = XmlAttribute(Priority)


class Receipt(ComplexModel):
    __namespace__ = NS
    total = Decimal
    due = DateTime
    size = Integer32
    count = Integer32
    urgent = Boolean
    destination = Unicode
    order = Order


class Session(ComplexModel):
    __namespace__ = NS
    token = Unicode


class Trace(ComplexModel):
    __namespace__ = NS
    id = Unicode


class OutOfStock(Fault):
    __namespace__ = NS

    def __init__(self, sku: str) -> None:
        super().__init__("Client.OutOfStock", f"no {sku} left")


def application(version: str) -> Any:
    """A WSGI application that serves orders in a version of SOAP.

    Without one-way calls: the WSDL that spyne makes for these names messages that it lacks.
    """

    class Orders(ServiceBase):
        __in_header__ = Session
        __out_header__ = Trace

        @rpc(Order, _returns=Receipt, _throws=OutOfStock)
        def register(ctx: Any, order: Any) -> Any:  # noqa: N805
            if any(line.sku == "none" for line in order.line or ()):
                raise OutOfStock("none")
            ctx.out_header = Trace(id=f"{ctx.in_header.token}/{order.number}")
            return Receipt(
                total=sum((line.price * line.quantity for line in order.line or ()), Number()),
                due=order.placed + timedelta(days=1),
                size=sum(map(len, order.attachment or ())),
                count=sum(line.quantity for line in order.line or ()),
                urgent=order.priority == Priority.high,
                destination=type(order.address).__name__,
                order=order,
            )

    protocol = Soap11 if version == "1.1" else Soap12
    return WsgiApplication(
        Application(
            [Orders],
            NS,
            in_protocol=protocol(validator="lxml"),
            out_protocol=protocol(polymorphic=True),
        )
    )
