"""The verbs of a route: one file each, named as in YAML, each with a `step: Role`."""

from __future__ import annotations

from typing import Any

from esb.adapter import Role
from esb.step import Step
from esb.steps import (
    call,
    choose,
    copy_to,
    filter,
    log,
    send,
    set,
    skip_seen,
    split,
    transform,
    validate,
)

STEPS: dict[str, Role[Any, Step]] = {
    module.__name__.rpartition(".")[2]: module.step
    for module in (
        *(call, choose, copy_to, filter, log, send, set, skip_seen, split, transform, validate),
    )
}
