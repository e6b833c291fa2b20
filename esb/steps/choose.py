"""Content-Based Router (EIP): run the steps of the first branch whose condition is true.

For example:

    choose:
      - when: body.amount > 10000
        steps: [{send: {queue: manual-review}}]
      - otherwise:
        steps: [{send: {queue: automatic}}]
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, RootModel, model_validator

from esb.adapter import Build, Expression, Role
from esb.envelope import Envelope
from esb.options import Misplaced, Options, RawSteps
from esb.step import Step, beside, identity, is_large


class Branch(Options):
    when: str | None = Field(None, description="An expression; the branch is taken if it is true.")
    otherwise: None = Field(None, description="Marks the last branch, taken if no other was.")
    steps: RawSteps = Field(description="What to do in this branch.")

    @model_validator(mode="before")
    @classmethod
    def _nothing_in_otherwise(cls, raw: Any) -> Any:
        # Said before pydantic would say it in two mistakes that help nobody.
        if isinstance(raw, dict) and raw.get("otherwise") is not None:
            raise Misplaced(
                "nothing stands behind 'otherwise:', the steps follow in 'steps:'", "otherwise"
            )
        return raw


class ChooseOptions(RootModel[list[Branch]]):
    """Branches, tried in order; a message that matches none goes on unchanged."""


def make(options: ChooseOptions, build: Build) -> Step:
    """The result is that of the branch taken."""
    branches: list[tuple[Expression | None, Step]] = []
    last = len(options.root) - 1
    if not options.root:
        raise build.problem("choose needs at least one branch", hint="- when: ...")
    for i, branch in enumerate(options.root):
        is_otherwise = "otherwise" in branch.model_fields_set
        if is_otherwise == (branch.when is not None):
            build.problem("a branch has either 'when' or 'otherwise'", i)
        elif is_otherwise and i != last:
            build.problem("'otherwise' is the last branch: those below are never tried", i)
        when = build.expression(branch.when, i, "when") if branch.when is not None else None
        branches.append((when, build.steps(branch.steps, i, "steps")))

    otherwise = bool(branches) and branches[-1][0] is None
    build.body(*(("inside",) if otherwise else ("inside", "kept")))

    def taken(envelope: Envelope) -> Step:
        for when, steps in branches:
            if when is None or when(envelope):
                return steps
        return identity

    async def choose(envelope: Envelope) -> Envelope:
        if is_large(envelope):
            steps = await beside(taken, envelope)
        else:
            steps = taken(envelope)
        return await steps(envelope)

    return choose


step = Role(ChooseOptions, make)
