"""What a sender might call a field of the bus, hoping that somebody reads it as one.

The names come from the envelope itself, so that a new field is tried without being told of, and
from what other systems obey.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, Final
from urllib.parse import quote

import msgspec

from esb.envelope import Envelope
from esb.expressions import PARAMS

MARK: Final = "intruder"
"""A value that must turn up nowhere but in data."""

TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-01"
"""One that would be taken if its name were."""

DATA: Final = ("body", "headers")
CONTROL: Final = tuple(f for f in Envelope.__struct_fields__ if f not in DATA)
"""The fields that no name of a sender's may reach."""

GROUPS: Final = tuple(dict.fromkeys(
    (*PARAMS, "principal", "client", "fault", "limits", "cached", "http", "sent", "amqp", "soap")
))  # fmt: skip
"""Groups of `Envelope.params`."""

OBEYED: Final = (
    # By some system, once a message has it.
    "route", "route_name", "endpoint", "exchange", "routing_key", "queue", "dead_letter",
    "dead_letter_exchange", "dead_letter_target", "expiration", "priority", "delay",
    "delivery_count", "death", "message_id", "redelivered", "retry_after", "max_attempts",
    "callback", "http_uri", "http_path", "http_method", "http_method_override", "file_name",
    "destination", "operation", "slip", "user_id", "tenant", "roles", "scopes", "claims",
    "authenticated", "allow", "debug", "trace_id", "idempotency_scope",
)  # fmt: skip

NAMES: Final = tuple(dict.fromkeys((*CONTROL, *GROUPS, *OBEYED)))

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PREFIXES: Final = (
    "", "esb_", "x_", "x_esb_", "bus_", "message_", "envelope_", "params_", "camel_", "jms_",
)  # fmt: skip
_CONFUSABLE: Final = str.maketrans(
    "aceiopstxyd", "\u0430\u0441\u0435\u0456\u043e\u0440\u0455\u03c4\u0445\u0443\u0501"
)
_FULL_WIDTH: Final = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def tokens(name: str) -> list[str]:
    """Spellings that are names of HTTP headers."""
    found: dict[str, None] = {}
    for prefix in _PREFIXES:
        words = (prefix + name).split("_")
        camel = words[0] + "".join(word.title() for word in words[1:])
        for spelled in (
            "_".join(words), "-".join(words), ".".join(words), "".join(words), camel,
            camel[0].upper() + camel[1:], "-".join(word.title() for word in words),
            "_".join(words).upper(), "-".join(words).upper(),
        ):  # fmt: skip
            found[spelled] = None
    for around in ("_{}", "__{}", "__{}__", "${}", "{}_", "{}!", "*{}", "^{}", "{}~", "|{}"):
        found[around.format(name)] = None
    return [*found]


def odd(name: str) -> list[str]:
    """Spellings that are none, but keys of JSON, names of fields and of tables."""
    paths = ("esb", "envelope", "params", "message", "__proto__", "constructor.prototype",
             "__class__.__dict__", "this", "$", "headers")  # fmt: skip
    forms = ("{}.{}", "{}[{}]", "{}/{}", "{}:{}", "{}::{}")
    found = [form.format(path, name) for path, form in product(paths, forms)]
    found += [
        f" {name}", f"{name} ", f"\t{name}", f"{name}\0", f"{name}\r\n{name}", f"\ufeff{name}",
        f"{name[0]}\u200b{name[1:]}", f"{name}\u0301", name.translate(_CONFUSABLE),
        name.translate(_FULL_WIDTH), name[::-1], f"\u202e{name[::-1]}",
        quote(name, safe="").replace("_", "%5F"),
        "".join(f"%{ord(c):02X}" for c in name), "".join(f"%25{ord(c):02X}" for c in name),
        "".join(f"&#{ord(c)};" for c in name), f"{{{{{name}}}}}", f"${{{name}}}",
        f"{name}[]", f"{name}[0]",
        f"../{name}", f"'{name}'", f'"{name}"', f"{name};a=b", f"({name})",
    ]  # fmt: skip
    return found


def values(name: str) -> list[Any]:
    """What it might be set to: text, and whatever the field itself holds."""
    return [TRACE] if name == "traceparent" else [MARK]


def snapshot(envelope: Envelope, *groups: str) -> dict[str, Any]:
    """The fields that control, without those that differ in each message, and without `groups` of
    params, in which a protocol tells what was sent."""
    found = {name: getattr(envelope, name) for name in CONTROL}
    found |= {"params": {k: v for k, v in envelope.params.items() if k not in groups}}
    found["time"] = type(found["time"])
    found["deadline"] = type(found["deadline"])
    found["id"] = _UUID.sub("a new one", found["id"])
    return found


def holds(value: Any) -> bool:
    """Whether what somebody sent turns up in it."""
    text = repr(msgspec.to_builtins(value, enc_hook=repr, str_keys=True))
    return MARK in text or TRACE in text
