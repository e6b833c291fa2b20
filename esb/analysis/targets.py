"""Fields to write or to take out, named as an expression would name them: `body.total`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from esb.analysis.findings import Findings
from esb.outline import Part


def check(route: Part, found: Findings) -> None:
    """Names that mean a field of a field `body`, in a route where no expression knows of one."""
    parts = list(route.walk())
    if any("body.body" in str(use.source) for part in parts for use in part.uses):
        return
    for part in parts:
        if part.kind == "step" and part.options is not None and part.name in _TARGETS:
            for name in _TARGETS[part.name](part.options):
                if name.startswith("body."):
                    found.add(
                        part, "target", f"'{name}' is in a field that is called body",
                        f"a field goes by its own name: {name.removeprefix('body.')}",
                    )  # fmt: skip


def _of_map(options: Any) -> Iterable[str]:
    return options.root if isinstance(options.root, Mapping) else ()


_TARGETS: Final[Mapping[str, Callable[[Any], Iterable[str]]]] = {
    "enrich": lambda options: filter(None, [options.into]),
    "keep": lambda options: options.fields,
    "map": _of_map,
    "remove": lambda options: options.fields,
    "set": lambda options: options.fields,
}
