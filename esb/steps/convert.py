"""Normalizer and Message Translator (EIP) between formats: the same content, written in another.

`convert: json`, `convert: {from: {csv: {delimiter: ";"}}, to: xml}`. What a format makes of data is
said in its file of `esb/codecs/`; for more than another spelling of the same there are `map` and
`transform`.

For example:

    convert: {from: {csv: {delimiter: ";"}}, to: json}
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.codecs import FORMATS, format_of
from esb.envelope import Body, parse_content_type
from esb.errors import UnsupportedMedia
from esb.options import Options
from esb.step import Step, computed
from esb.steps._formats import READ, FormatChoice, or_name


class ConvertOptions(Options):
    """Another format for the body."""

    __shorthand__ = "to"

    from_: FormatChoice | None = Field(
        None,
        alias="from",
        description="What the body is; left out, its content type tells.",
        json_schema_extra=or_name(READ),
    )
    to: FormatChoice = Field(
        description="What it becomes, with its content type.", json_schema_extra=or_name(READ)
    )


def make(options: ConvertOptions, build: Build) -> Step:
    """The body is new bytes, headers stay. Raises BadMessage, with its place, where the body is not
    what it should be; UnsupportedMedia where nothing reads its content type; RouteFailure, with its
    place, for what the new format has no form for."""
    given = None
    if options.from_ is not None:
        name, own = options.from_.chosen
        given = FORMATS[name].make(own)
    name, wanted = options.to.chosen
    target = FORMATS[name]
    writer = target.make(wanted)

    def converted(body: Body) -> Body:
        content_type = parse_content_type(body.content_type)
        reader = given
        if reader is None:
            found = format_of(body.content_type)
            if found is None:
                raise UnsupportedMedia(f"no format reads {content_type.essence or 'the body'}")
            # Data that is at hand is not read again, but where `convert` reads it in its own way.
            reader = found.make(found.options()) if found.body is not None else None
        data = body.data if reader is None else reader.decode(body.raw, content_type)
        written = target.written(wanted)
        return Body(writer.encode(data, parse_content_type(written)), written)

    return computed(lambda envelope: envelope.with_body(converted(envelope.body)))


step = Role(ConvertOptions, make)
