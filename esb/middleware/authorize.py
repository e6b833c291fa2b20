"""Who may: the policy `allow` of a route, asked before anything else is done with a message.

What is looked at are typed fields and params that only sources fill, and they are the very values
that the message was dispatched by; so nobody is allowed one thing and does another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from esb.adapter import Expression
from esb.envelope import Envelope
from esb.errors import Denied, EsbError
from esb.identity import sender
from esb.options import Options, Words
from esb.step import Middleware, Step, asked

HttpMethod = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
"""Those that a source can be asked with."""


def _upper(value: Any) -> Any:
    return [str(one).upper() for one in value] if isinstance(value, list) else [str(value).upper()]


class Allow(Options):
    """A rule about who may. All that is said in it must be true of a message."""

    roles: Words = Field([], description="The caller has one of these roles.")
    scopes: Words = Field([], description="The caller has all of these scopes.")
    principals: Words = Field(
        [],
        description="The caller is one of these: `acme`, or exactly who proved it by one way of "
        "the section `auth`, `partners/acme`.",
    )
    when: str | None = Field(
        None,
        description="An expression that is true: `principal.claims.tenant == path.tenant`.",
    )
    methods: Annotated[
        list[HttpMethod],
        BeforeValidator(_upper, json_schema_input_type=HttpMethod | list[HttpMethod]),
    ] = Field([], description="It is about requests with these methods; about all if left out.")
    operations: Words = Field(
        [], description="It is about these operations of a hosted service; about all if left out."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Allow:
        if not (self.roles or self.scopes or self.principals or self.when):
            raise ValueError("it is not said who may: roles, scopes, principals or when")
        return self


def _rules(value: Any) -> Any:
    if isinstance(value, str):
        return [{"when": value}]
    return value if isinstance(value, list) else [value]


Rules = Annotated[
    list[Allow],
    Field(min_length=1),
    BeforeValidator(_rules, json_schema_input_type=str | Allow | list[Allow]),
]
"""Who may what: the first that is about a message decides. What none is about is denied."""

Rule = tuple[Allow, Expression | None]
"""With its expression, compiled."""


def allowing(rules: Sequence[Rule], ways: Collection[str] = ()) -> Middleware:
    """Raises Denied for a message that its rule does not allow, also if it cannot be looked at.

    ways: the names of the section `auth`.
    """
    checks = [(_concerns(rule), _fits(rule, when, ways)) for rule, when in rules]

    def middleware(step: Step) -> Step:
        async def allow(envelope: Envelope) -> Envelope:
            fits = next((fits for concerns, fits in checks if concerns(envelope)), None)
            if fits is not None and await asked(fits, envelope):
                return await step(envelope)
            known = bool(envelope.principal)
            text = "the credentials are not enough for this" if known else "credentials are needed"
            raise Denied(text, authenticated=known)

        return allow

    return middleware


def _concerns(rule: Allow) -> Callable[[Envelope], bool]:
    """Whether a rule is about a message."""
    methods: frozenset[str] = frozenset(rule.methods)
    operations = frozenset(rule.operations)
    if "GET" in methods:
        methods |= {"HEAD"}  # which is answered as a GET is

    def concerns(envelope: Envelope) -> bool:
        params = envelope.params
        if methods and params.get("http", {}).get("method") not in methods:
            return False
        return not operations or params.get("soap", {}).get("operation") in operations

    return concerns


def _fits(
    rule: Allow, when: Expression | None, ways: Collection[str]
) -> Callable[[Envelope], bool]:
    """Whether all that a rule says is true of a message."""
    roles, scopes, listed = map(frozenset, (rule.roles, rule.scopes, rule.principals))
    # Apart, since a name may hold a slash, too.
    exact = {one for one in listed if one.partition("/")[0] in ways and "/" in one}
    names = listed - exact

    def fits(envelope: Envelope) -> bool:
        known = envelope.params.get("principal", {})
        if listed and envelope.principal not in names and sender(envelope) not in exact:
            return False
        if roles and roles.isdisjoint(known.get("roles", ())):
            return False
        if not scopes.issubset(known.get("scopes", ())):
            return False
        if when is None:
            return True
        try:
            return when(envelope) is True
        except EsbError:
            return False  # what cannot be looked at is not allowed

    return fits
