"""Request-Reply (EIP): send the message to an endpoint and go on with its reply.

For example:

    call: {http: "https://crm.example/partners/{{ body.id }}"}
"""

from __future__ import annotations

from pydantic import RootModel

from esb.adapter import Build, Role
from esb.options import RawCaller
from esb.step import Step


class CallOptions(RootModel[RawCaller]):
    """The endpoint: one adapter and its options, `{http: {url: ...}}`."""


def make(options: CallOptions, build: Build) -> Step:
    """The reply replaces the message; what raises is up to the endpoint."""
    build.body("inside")
    return build.caller(options.root).call


step = Role(CallOptions, make)
