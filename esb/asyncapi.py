"""What routes read and feed beside HTTP, as AsyncAPI 3.0.0: channels (queues, topics, exchanges,
folders) and what this bus does with them.

https://www.asyncapi.com/docs/reference/specification/v3.0.0. It is read off the outlines of routes,
so a new adapter is in it. `document` makes it, `page` shows it to people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

from esb import __version__
from esb.outline import Channel, Part
from esb.redaction import shown
from esb.route import Route

_NO_ID: Final = re.compile(r"[^A-Za-z0-9_-]+")
_REMOTE: Final = '"$ref"'

Plain = dict[str, Any]


def document(routes: Iterable[Route]) -> Plain:
    """The document, as plain data that JSON can hold. It has no addresses of servers, which
    connections know and may hold secrets."""
    channels: dict[str, Plain] = {}
    operations: dict[str, Plain] = {}
    ids: dict[str, str] = {}
    for route in routes:
        if route.outline.kind != "route":
            continue  # a continuation: its steps are in the route that it begins in
        for part, channel in _ends(route.outline):
            name = shown(channel.name)
            known = ids.get(name)
            if known is None:
                known = ids[name] = _free(name, channels)
                channels[known] = _channel(part, channel, name)
            receives = part.direction == "source"
            action = "receive" if receives else "send"
            operation = _free(f"{route.name}-{action}-{known}", operations)
            told: Plain = {
                "action": action,
                "channel": {"$ref": f"#/channels/{known}"},
                "title": f"{route.name}: {name}",
                "x-esb-route": route.name,
                "x-esb-place": part.place,
            }
            operations[operation] = told
            if route.options.description:
                told["summary"] = route.options.description
            if receives and (payload := _payload(route.outline)) is not None:
                message = f"{_NO_ID.sub('-', route.name)}-message"
                channels[known].setdefault("messages", {})[message] = {"payload": payload}
                told["messages"] = [{"$ref": f"#/channels/{known}/messages/{message}"}]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Channels of the bus",
            "version": __version__,
            "description": "What routes read and feed. Made from the project's files.",
        },
        "channels": channels,
        "operations": operations,
    }


def _ends(outline: Part) -> Iterator[tuple[Part, Channel]]:
    for part in outline.walk():
        for channel in part.channels:
            yield part, channel


def _channel(part: Part, channel: Channel, name: str) -> Plain:
    """One channel. Its name says what it is: "queue orders", "amqp queue orders"."""
    kind, _, address = name.partition(" ")
    within, _, rest = address.partition(" ")
    if kind == part.name and rest and not within.startswith("{{"):
        kind, address = within, rest
    told: Plain = {
        # Where messages decide, there is no one address (Channel Object: null if unknown).
        "address": None if channel.is_open else address,
        "title": name,
        "x-esb-adapter": part.name,
        "x-esb-kind": kind,
    }
    if channel.is_open:
        told["description"] = f"Messages say which: {address}"
    elif channel.outside:
        told["description"] = "Others may read and feed it as well."
    return told


def _payload(outline: Part) -> Any:
    """The JSON Schema of what a route takes, if it checks that before all else."""
    for part in outline.walk():
        if part.kind == "source" and part.given.body is not None:
            return _alone(part.given.body)
        if part.kind == "step":
            return _alone(part.schema) if part.schema is not None else None
    return None


def _alone(schema: Any) -> Any:
    """A schema that can stand in another document; None for one that refers to others."""
    if isinstance(schema, Path):
        try:
            schema = json.loads(schema.read_bytes())
        except (OSError, ValueError):
            return None
    if _REMOTE in json.dumps(schema, default=str):
        return None
    return {"schemaFormat": "application/schema+json;version=draft-07", "schema": schema}


def _free(name: str, taken: dict[str, Plain]) -> str:
    """A key for this name that nobody else has."""
    plain = number = _NO_ID.sub("-", name).strip("-") or "channel"
    count = 1
    while number in taken:
        count += 1
        number = f"{plain}-{count}"
    return number


# --- for people -----------------------------------------------------------------------------------

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Channels of the bus</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid #ccc;vertical-align:top}}</style></head>
<body><h1>Channels of the bus</h1>
<p>{count} channels. For programs: <a href="asyncapi.json">AsyncAPI 3.0</a>.</p>
<table><tr><th>Channel</th><th>Read by</th><th>Fed by</th><th></th></tr>
{rows}
</table></body></html>
"""


def page(described: Plain) -> str:
    """The same for people: a page that needs no script."""
    rows = []
    for key, channel in sorted(described["channels"].items(), key=lambda one: one[1]["title"]):
        by: dict[str, list[str]] = {"receive": [], "send": []}
        for operation in described["operations"].values():
            if operation["channel"]["$ref"] == f"#/channels/{key}":
                by[operation["action"]].append(operation["x-esb-route"])
        cells = [
            channel["title"],
            *(", ".join(dict.fromkeys(names)) for names in by.values()),
            channel.get("description", ""),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return _PAGE.format(count=len(rows), rows="\n".join(rows))
