"""Message Translator (EIP): make a new body from the message with a Jinja2 template or XSLT.

For example:

    transform: {jinja: claim.xml.j2}
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.options import Duration, Options, Size
from esb.step import Step, computed
from esb.steps._untrusted import MEMORY, TIMEOUT, UNTRUSTED, check_untrusted, limits

_BY_SUFFIX = {"xml": "application/xml", "json": "application/json", "html": "text/html"}


class TransformOptions(Options):
    jinja: str | None = Field(
        None, description="A Jinja2 template: a file, or the text itself if it has a line break."
    )
    xslt: str | None = Field(None, description="An XSLT 1.0 stylesheet: a file.")
    content_type: str = Field(
        "",
        description="Of the new body. Left out, `claim.xml.j2` says application/xml, "
        "`.json.j2` application/json; other templates make text/plain; XSLT says it itself.",
    )
    untrusted: bool = UNTRUSTED
    timeout: Duration | None = TIMEOUT
    memory: Size | None = MEMORY


def make(options: TransformOptions, build: Build) -> Step:
    """Headers stay; the body and its content type are new."""
    if (options.jinja is None) == (options.xslt is None):
        raise build.problem("transform takes one of 'jinja' and 'xslt'")
    check_untrusted(options, build, options.xslt is not None, "a stylesheet (XSLT)")
    if options.jinja is not None:
        content_type = options.content_type or _guess(options.jinja)
        render = build.jinja(options.jinja, content_type, "jinja")
    elif options.untrusted:
        work = build.aside(
            "xslt", options.xslt or "", options.content_type, limits(options), "xslt"
        )

        async def aside(envelope: Envelope) -> Envelope:
            return envelope.with_body(await work(envelope))

        return aside
    else:
        render = build.xslt(options.xslt or "", options.content_type, "xslt")

    def transform(envelope: Envelope) -> Envelope:
        return envelope.with_body(render(envelope))

    return computed(transform)


def _guess(name: str) -> str:
    if "\n" in name:
        return "text/plain; charset=utf-8"
    for part in reversed(name.lower().split(".")):
        if part in _BY_SUFFIX:
            return _BY_SUFFIX[part]
    return "text/plain; charset=utf-8"


step = Role(TransformOptions, make)
