"""What may be written in a file of tests, `*.test.yaml`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from esb.envelope import Outcome
from esb.errors import KINDS
from esb.options import Backoff, Duration, Options

Outcomes = Literal["message", "reply", "accepted", "filtered", "dead"]
assert {outcome.value for outcome in Outcome} == set(Outcomes.__args__)  # type: ignore[attr-defined]


def _code(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"an error is one of: {', '.join(KINDS)}")
    return value


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("a time is written 2025-03-01T12:00:00Z") from None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    raise ValueError("a time is written 2025-03-01T12:00:00Z")


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
ErrorCode = Annotated[
    str, AfterValidator(_code), WithJsonSchema({"type": "string", "enum": [*KINDS]})
]


def _raw(name: str, *, many: bool = False) -> Any:
    """Validated where it stands, so that mistakes get their line; the schema knows its model."""
    one: dict[str, Any] = {"x-esb": name}
    schema = {"anyOf": [one, {"type": "array", "items": one}]} if many else one
    return Annotated[Any, WithJsonSchema(schema)]


class Written(Options):
    """A body with its headers."""

    body: Any = Field(
        None,
        description="The body: data, or text. Data is written as its content type says, JSON if "
        "that is left out.",
    )
    file: str = Field("", description="The body, from a file beside the tests.")
    content_type: str = Field(
        "",
        description="Of the body. Left out, it follows from the file's name; text that begins with "
        "`<` is XML, with `{` or `[` JSON, other text is text/plain.",
    )
    headers: dict[str, Any] = Field(
        default_factory=dict, description="Header: value, or a list of values."
    )

    @model_validator(mode="after")
    def _one_body(self) -> Written:
        if self.file and "body" in self.model_fields_set:
            raise ValueError("a body is written here or in a file, not both")
        return self


class Given(Written):
    """A message that comes in."""

    trace: str = Field(
        "",
        description="A message that once came in: a line of `esb trace --json`, in a file beside "
        "the tests. What is said here besides goes before.",
    )
    method: str = Field("", description="HTTP: the method; the route's first if left out.")
    path: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the path, by name."
    )
    query: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the query; a value may be a list."
    )
    params: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="What the source knows besides, by group: `{amqp: {routing_key: a.b}}`.",
    )
    id: str = Field("", description="The message's id; made up if left out.")
    type: str = Field("", description="Its type, as of a CloudEvent.")
    subject: str = Field("", description="Its subject.")
    correlation_id: str = Field("", description="Its correlation id.")
    principal: str = Field("", description="Who the caller is, as if authenticated.")
    after: Duration = Field(
        0.0,
        description="How much later it comes than the one before; else at the same moment, once "
        "nothing more happens without time passing.",
    )
    expect: _raw("answer") = Field(  # type: ignore[valid-type]
        None, description="What its sender is told; `expect` of the test speaks of the last one."
    )


class Reply(Written):
    """What a far side answers to one call. Neither a body nor an error: it takes the message."""

    when: str = Field(
        "",
        description="An expression over what was sent: if it is true this answers, as often as it "
        "is, before those that have none.",
    )
    status: int | None = Field(None, ge=100, le=599, description="HTTP: the status of the answer.")
    error: ErrorCode | None = Field(
        None, description="Fail with this error of the bus, such as `unreachable`."
    )
    detail: str = Field("", description="The text of the error or fault.")
    retry_after: Duration | None = Field(
        None, description="With an error that may pass: what the far side asks to wait."
    )
    fault: str = Field("", description="Answer this fault; of a WSDL, by its name.")
    data: Any = Field(None, description="The data in the fault.")
    delay: Duration = Field(
        0.0, description="How long the answer takes; beyond the endpoint's timeout none comes."
    )
    times: int = Field(1, ge=1, description="In a list: how often it answers before the next does.")

    @model_validator(mode="after")
    def _one_answer(self) -> Reply:
        said = [name for name in ("error", "fault", "status") if getattr(self, name)]
        if len(said) > 1:
            raise ValueError(f"an answer has one of {' and '.join(said)}")
        return self


class Expected(Options):
    """What a body, its headers and the like must be; what is left out may be anything."""

    body: Any = Field(
        None,
        description="The whole body. Data is compared by value (1.10 is 1.1), as is XML: prefixes, "
        "attributes' order and the space between elements make no difference.",
    )
    body_includes: Any = Field(
        None,
        description="What the body holds at least: objects may have more fields, lists more items "
        "(in this order), XML more elements and attributes; a text is part of the text.",
    )
    file: str = Field("", description="The whole body, from a file beside the tests.")
    content_type: str = Field("", description="The content type, without its parameters.")
    headers: dict[str, Any] = Field(
        default_factory=dict, description="Header: value; null: it is not there."
    )
    that: Annotated[
        list[str],
        BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        ),
    ] = Field(
        default_factory=list,
        description="Expressions over the message that must be true: `body.total > 3`.",
    )


class ExpectedError(Options):
    """An error."""

    __shorthand__ = "code"

    code: str = Field("", description="Its code, such as `rejected`.")
    detail: str = Field("", description="What its text contains.")
    step: str = Field("", description="The step that raised it: `steps[1].call`.")


class Answer(Expected):
    """What the sender of a message is told. Of an HTTP source it is the answer as the caller gets
    it; of any other the message as the route left it."""

    outcome: Outcomes | None = Field(None, description="What became of the message.")
    status: int | None = Field(None, description="HTTP: the status of the answer.")
    error: _raw("error") = Field(  # type: ignore[valid-type]
        None, description="The error that the route ends with: its code, or code, detail, step."
    )


class Call(Expected):
    """A message that went to an endpoint."""

    to: str = Field(description="The endpoint, named as under `mocks`.")
    sent: dict[str, Any] = Field(
        default_factory=dict,
        description="What the endpoint's protocol says besides, at least: of HTTP `method` and "
        "`url`, of AMQP `exchange` and `routing_key`; else options of the endpoint.",
    )
    times: int = Field(1, ge=1, description="So often in a row.")


class Dead(Expected):
    """A dead letter in the bus's own store."""

    __shorthand__ = "code"

    code: str = Field("", description="The code of the error.")
    detail: str = Field("", description="What the error's text contains.")
    step: str = Field("", description="The step that raised it.")
    attempts: int | None = Field(None, description="How often it was tried.")


class Expect(Answer):
    """What must have happened in the end."""

    calls: list[_raw("call")] | None = Field(  # type: ignore[valid-type]
        None, description="All messages that went to mocked endpoints, in this order."
    )
    any_order: bool = Field(False, description="The calls may come in any order.")
    channels: dict[str, _raw("message", many=True)] | None = Field(  # type: ignore[valid-type]
        None,
        description="What was put into the bus's own queues and topics, by their names, in this "
        "order. `[]`: nothing. Those that are not named may have got anything.",
    )
    dead: _raw("dead", many=True) = Field(  # type: ignore[valid-type]
        None, description="The dead letters, in their order; `[]`: none."
    )
    took: Backoff | None = Field(
        None,
        description="How much time passed from the first message until all was through: `30s`, or "
        "something between `1s..40s`. It passes only where something waits.",
    )
    log: list[str] = Field(
        default_factory=list, description="Texts that lines of the step `log` contain, in order."
    )


class CaseOptions(Options):
    """One test: messages come in, and what becomes of them is compared with what is expected."""

    description: str = Field("", description="What it shows.")
    route: str = Field(
        "", description="The route; may be left out if only one has messages of its own."
    )
    also: list[str] = Field(
        default_factory=list,
        description="Further routes that run: what the route sends to a queue is then taken by "
        "those that read it.",
    )
    now: Moment | None = Field(None, description="The time at which it begins.")
    given: _raw("given", many=True) = Field(  # type: ignore[valid-type]
        None,
        description="The message, or several in a row; an empty one if left out. `[]`: none, and a "
        "route that is scheduled fires by itself (say `within`).",
    )
    mocks: dict[str, _raw("reply", many=True)] = Field(  # type: ignore[valid-type]
        default_factory=dict,
        description="What far sides answer, by endpoint: its place (`steps[1].call`), its "
        "connection, its operation, queue or other option, or its adapter. One answer: always "
        "that; a list: one after the other, and no more.",
    )
    within: Duration | None = Field(
        None,
        description="Look when so much time has passed, though all may not be through. Left out, "
        "it is waited until nothing is left to be done.",
    )
    expect: _raw("expect") = Field(  # type: ignore[valid-type]
        None, description="What must have happened."
    )


class SuiteOptions(Options):
    """A file of tests, beside the routes: `claims.test.yaml` has those of `claims.yaml`."""

    routes: Annotated[
        list[str],
        BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        ),
    ] = Field(
        default_factory=list,
        description="The files or folders of the routes. Left out: the file of the same name; of "
        "`tests.yaml`, all in its folder.",
    )
    environ: dict[str, str] = Field(
        default_factory=dict,
        description="What `${NAME}` stands for. The real environment is not seen: what is not "
        "named here has its default, or `NAME` as its value.",
    )
    profile: str = Field("", description="The profile that counts; none if left out.")
    now: Moment | None = Field(None, description="The time, for tests that say none.")
    mocks: dict[str, _raw("reply", many=True)] = Field(  # type: ignore[valid-type]
        default_factory=dict, description="What far sides answer in tests that say nothing else."
    )
    tests: dict[str, _raw("test")] = Field(  # type: ignore[valid-type]
        description="The tests, each by a sentence that says what it shows."
    )


RAW: dict[str, type[Options]] = {
    "answer": Answer,
    "call": Call,
    "dead": Dead,
    "error": ExpectedError,
    "expect": Expect,
    "given": Given,
    "message": Expected,
    "reply": Reply,
    "test": CaseOptions,
}
"""The models of the parts that are validated where they stand."""
