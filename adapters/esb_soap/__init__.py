"""SOAP 1.1 and 1.2 over HTTP, described by WSDL 1.1: services called and services hosted."""

from __future__ import annotations

from esb.adapter import Adapter, Role
from esb_soap.call import CallOptions, SendOptions, SoapCaller, SoapConnection
from esb_soap.host import HostOptions, SoapHost

adapter = Adapter(
    source=Role(HostOptions, SoapHost),
    sink=Role(SendOptions, SoapCaller),
    caller=Role(CallOptions, SoapCaller),
    connection=SoapConnection,
)

__all__ = ["adapter"]
