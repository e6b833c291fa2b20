"""Refuse a message whose body does not match a schema (EIP: Datatype Channel, enforced).

For example:

    validate: {json_schema: order.schema.json}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.options import Duration, Options, Size
from esb.step import Step, computed
from esb.steps._untrusted import MEMORY, TIMEOUT, UNTRUSTED, check_untrusted, limits


class ValidateOptions(Options):
    json_schema: str | dict[str, Any] | None = Field(
        None, description="A JSON Schema (2020-12): a file, or the schema itself."
    )
    xsd: str | None = Field(None, description="An XML Schema 1.0: a file.")
    untrusted: bool = UNTRUSTED
    timeout: Duration | None = TIMEOUT
    memory: Size | None = MEMORY


def make(options: ValidateOptions, build: Build) -> Step:
    """Raises BadMessage that lists what is wrong and where."""
    if (options.json_schema is None) == (options.xsd is None):
        raise build.problem("validate takes one of 'json_schema' and 'xsd'")
    check_untrusted(options, build, options.xsd is not None, "an XML Schema")
    if options.json_schema is not None:
        check = build.json_schema(options.json_schema, "json_schema")
    elif options.untrusted:
        work = build.aside("xsd", options.xsd or "", "", limits(options), "xsd")

        async def aside(envelope: Envelope) -> Envelope:
            await work(envelope)
            return envelope

        return aside
    else:
        check = build.xml_schema(options.xsd or "", "xsd")

    def validate(envelope: Envelope) -> Envelope:
        check(envelope)
        return envelope

    return computed(validate)


step = Role(ValidateOptions, make)
