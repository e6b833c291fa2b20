"""The inputs, a file a family. `corpus()` has all; each is named once."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Final

from hostile.case import Bytes, Case, Post, Reply


def corpus() -> list[Case]:
    """Every case of every file here, in the order of their families."""
    found: list[Case] = []
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        found += importlib.import_module(f"{__name__}.{module}").cases()
    names = [(one.family, one.name) for one in found]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, twice
    return found


def short() -> list[Case]:
    """Every case that is neither large nor slow, and some of the large ones: those whose content is
    made when its turn comes, save tokens, which are made because they age or name the canary."""
    cases = [one for one in corpus() if not one.slow]
    large = [one for one in cases if callable(content_of(one)) and one.family not in _TOKENS]
    left = {id(one) for at, one in enumerate(large) if at % 8}
    return [one for one in cases if id(one) not in left]


_TOKENS: Final = ("security", "tokens")


def content_of(case: Case) -> Bytes:
    """What is sent."""
    wire = case.wire
    if isinstance(wire, Post):
        return wire.body
    return wire.answer if isinstance(wire, Reply) else wire.content


def warming() -> Iterator[Case]:
    """Good requests that load what is loaded with the first one."""
    envelope = (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        '<getPartner xmlns="urn:example:partner"><id>1</id></getPartner></s:Body></s:Envelope>'
    )
    for path, kind, body in (
        ("/json", "application/json", '{"lines": []}'),
        ("/json", "application/json", '{"lines": 1}'),
        ("/yaml", "application/yaml", "a: 1"),
        ("/csv", "text/csv", "a,b\n1,2\n"),
        ("/form", "application/x-www-form-urlencoded", "a=1"),
        (
            "/parts",
            'multipart/form-data; boundary="b"',
            '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n',
        ),
        ("/parts", 'multipart/mixed; boundary="b"', "--b\r\n\r\n1\r\n--b--\r\n"),
        ("/text", "text/plain", "a"),
        ("/xml", "application/xml", "<order/>"),
        ("/xslt", "application/xml", "<order><line>a</line></order>"),
        ("/xsd", "application/xml", "<order><name>a</name></order>"),
        ("/xsd", "application/xml", "<order/>"),
        ("/header", "text/xml", envelope),
        ("/soap", "text/xml", envelope),
        ("/secured", "text/xml", envelope),
        ("/addressed", "text/xml", envelope),
        ("/rpc", "text/xml", envelope),
        ("/page/getPartner", "application/json", '{"id": 1}'),
        (
            "/event",
            "application/cloudevents+json",
            '{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {}}',
        ),
        ("/split", "application/json", '{"lines": [1]}'),
        ("/split-xml", "application/xml", "<orders><order><name>a</name></order></orders>"),
        ("/taken", "application/json", "{}"),
        ("/read", "application/json", "[" + " " * 300_000 + "]"),
    ):
        yield Case("warming", path, Post(path, body, kind))
    from hostile.corpus import tokens

    for post in tokens.warming():
        yield Case("warming", post.path, post)
    yield Case("warming", "a reply", Reply("/far", "HTTP/1.1 200 OK\r\n\r\n{}"))
