"""Large bodies at each verb that reads them: none of it keeps the event loop from its work."""

from __future__ import annotations

from hostile.case import Case, Post, Reply

MB = 1024 * 1024


def _objects() -> bytes:
    one = b'{"a": "%s", "b": "text", "c": null}' % (b"v" * 100)
    return b"[" + (one + b",") * (10 * MB // len(one) - 100) + one + b"]"


def _fields() -> bytes:
    one = b'"k%06d": {"a": "%s"}' % (0, b"v" * 50)
    one = one.replace(b"000000", b"%06d")
    lines = b'"times": 1, "lines": [1], '
    return b"{" + lines + b",".join(one % number for number in range(140_000)) + b"}"


def _elements() -> bytes:
    return b"<r>" + b"<a>a text that is here, and ends here</a>" * 240_000 + b"</r>"


def _reply() -> bytes:
    body = _fields()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def cases() -> list[Case]:
    """All."""
    json = "application/json"
    return [
        *(
            Case("steps", f"{verb}: {name}", Post(f"/step-{verb}", made, json), (200,))
            for verb, name, made in (
                ("keep", "many objects", _objects),
                ("remove", "many objects", _objects),
                ("enrich", "many fields", _fields),
                ("each", "many fields", _fields),
                ("loop", "many fields", _fields),
                ("answer", "many fields", _fields),
                ("answer", "many objects", _objects),
                ("send", "many objects", _objects),
            )
        ),
        Case(
            "steps",
            "remove: many elements",
            Post("/step-remove-xml", _elements, "application/xml"),
            (200,),
        ),
        *(
            Case("steps", f"{verb}: a large answer", Reply(f"/step-{verb}", _reply), (200,))
            for verb in ("enrich", "gather")
        ),
    ]
