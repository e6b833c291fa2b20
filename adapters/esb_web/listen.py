"""The `listen:` section: where the bus takes HTTP requests, and every limit that holds there."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from esb.adapter import Section
from esb.options import Auth, Duration, Options, Size, Words


def _cidr(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError as e:
        raise ValueError("an address or a network is expected: 10.0.0.7 or 10.0.0.0/8") from e
    return value


def _prefix(value: str) -> str:
    if value and (not value.startswith("/") or value.endswith("/") or "//" in value):
        raise ValueError("a base path starts with a slash and does not end with one: /esb")
    return value


def _origin(value: str) -> str:
    if value != "*" and ("://" not in value or value.endswith("/") or value.count("/") != 2):
        raise ValueError('an origin is scheme://host[:port], or "*" for all')
    return value


class ListenTls(Options):
    """TLS of the listener; version 1.2 or newer."""

    cert: str = Field(description="PEM file: the certificate and those between it and its root.")
    key: str = Field(description="PEM file: the private key, without a password.")
    client_ca: str | None = Field(
        None,
        description="PEM file: callers show a certificate signed by one of these; the name in it "
        "is then `message.principal`.",
    )
    client_certificate: Literal["required", "optional"] = Field(
        "required",
        description="Whether all callers must show one, or those alone who are known by it (`auth` "
        "says who may do without). One that nobody here has signed ends the handshake either way.",
    )

    @property
    def certified(self) -> bool:
        """Whether everybody who gets through has shown a certificate."""
        return self.client_ca is not None and self.client_certificate == "required"

    @model_validator(mode="after")
    def _of_whom(self) -> Self:
        if self.client_ca is None and "client_certificate" in self.model_fields_set:
            raise ValueError("'client_certificate' needs 'client_ca': who signs them")
        return self


class Cors(Options):
    """Which pages of other origins may call (Fetch Standard, CORS protocol)."""

    origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        description='Origins that may call: "https://app.example", or "*" for all.'
    )
    methods: list[str] = Field(
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], description="Methods they may use."
    )
    headers: list[str] = Field(
        ["content-type", "accept", "authorization"], description="Headers they may send."
    )
    expose: list[str] = Field([], description="Headers of the answer that they may read.")
    credentials: bool = Field(False, description='Whether cookies may be sent; not with "*".')
    max_age: Duration = Field(600.0, description="How long a browser may remember this.")

    @model_validator(mode="after")
    def _not_for_all(self) -> Cors:
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials need named origins, not "*"')
        return self


class ListenOptions(Options):
    """The HTTP listener that all `http` and `soap` sources share."""

    __live__ = ("auth",)
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    tls: ListenTls | None = Field(None, description="Serve https instead of http.")
    auth: Auth | None = Field(
        None,
        description="Who may call what says nothing itself, and read the pages about it: names of "
        "the section `auth`, any of which will do, or `public`.",
    )
    base_path: Annotated[str, AfterValidator(_prefix)] = Field(
        "", description="Path in front of everything that is served, such as /esb."
    )
    hosts: Words = Field(
        [], description="Host names that are answered; empty for any. *.example.org is allowed."
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_cidr)]] = Field(
        [],
        description="Addresses whose X-Forwarded-For, -Proto, -Host and -Prefix are believed.",
    )
    cors: Cors | None = Field(None, description="Let pages of other origins call.")
    max_body: Size = Field(
        5 * 1024**2,
        description="Largest request body, also where a route passes it on as it arrives.",
    )
    max_uri: Size = Field(8 * 1024, description="Longest request target.")
    max_header_size: Size = Field(32 * 1024, description="All headers of a request together.")
    max_headers: int = Field(100, ge=1, description="Number of headers of a request.")
    header_timeout: Duration = Field(10.0, description="Time to send the head of a request.")
    body_timeout: Duration = Field(
        30.0,
        description="Time to send the body of a request; of one that is passed on as it arrives, "
        "to send more of it.",
    )
    idle_timeout: Duration = Field(75.0, description="How long an idle connection is kept.")
    write_timeout: Duration = Field(30.0, description="Time for the caller to take some answer.")
    request_timeout: Duration = Field(
        60.0, description="Deadline of a request, unless its route has its own `timeout`."
    )
    max_connections: int = Field(1000, ge=1, description="Connections open at a time.")
    max_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="The same of one address, or of one /64 of IPv6; no limit for "
        "`trusted_proxies`, which stand for many callers.",
    )
    max_requests: int = Field(1000, ge=1, description="Requests being worked on at a time.")
    max_memory: Size = Field(
        256 * 1024**2,
        description="Bodies over 64 KB together, without what is passed on as it arrives; more is "
        "answered with 503. The same for answers that callers do not read: who has not read for "
        "longest is given up.",
    )
    docs: bool = Field(True, description="Serve /docs and /openapi.json.")


section = Section(options=ListenOptions)
