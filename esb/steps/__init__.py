"""The verbs of a route: one file each, named as in YAML, each with a `step: Role`.

A file whose name is a word of Python's ends in an underscore (`try_.py` is `try`); one that begins
with an underscore is no verb.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from esb.adapter import Role
from esb.step import Step

STEPS: dict[str, Role[Any, Step]] = {
    name.rstrip("_"): import_module(f"{__name__}.{name}").step
    for name in sorted(module.name for module in iter_modules(__path__))
    if not name.startswith("_")
}
