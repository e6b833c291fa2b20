"""Every error of the bus, typed by what to do about it.

    EsbError
    ├── ConfigError               found while routes are loaded; carries all its Diagnostics
    ├── Permanent                 trying again cannot help
    │   ├── BadMessage            the sender's fault: malformed, invalid
    │   │   ├── TooLarge          over a size, depth or count limit
    │   │   ├── UnsupportedMedia  a content type nobody here reads
    │   │   └── NoSuchOperation   nothing is served under that name, path or method
    │   ├── Denied                credentials missing or not enough
    │   ├── RouteFailure          the route's own fault: an expression or a template failed
    │   ├── Fault                 the far side answered with a typed fault
    │   ├── Rejected              the far side refused the message (a 4xx, an unroutable publish)
    │   ├── BadReply              the far side answered something unreadable
    │   ├── OutcomeUnknown        sent, no answer came, and sending again is not safe
    │   ├── NotUndone             part of what belongs together is done and cannot be undone
    │   └── Expired               it came too late to be of use
    └── Transient                 may work later, after `retry_after` seconds if it says so
        ├── Unreachable           no connection was made, so nothing was sent
        │   └── CircuitOpen       it failed too often to be asked at all for now
        ├── InProgress            somebody else is at work on the same
        ├── Unavailable           the bus itself cannot do its part: its store is away
        ├── TimedOut              no answer in time, and sending again is safe
        └── Overloaded            a limit of the bus or of the far side (429, 503)
            └── Throttled         the sender asked more often than its route allows

Adapters translate the errors of their client libraries into these at their edge; nothing
else in the bus ever sees a foreign exception type. `str(error)` is written for the sender
of the message: it names no file, no secret and no internals. What those who run the bus need
besides (an address, what the far side said) goes into a note: see `EsbError.noted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from esb.redaction import shown


class EsbError(Exception):
    """Root of the tree.

    `code` is a stable slug for programs, `detail` a sentence for people, `step` the place in the
    route where it was raised ("steps[1].call", filled in on the way out; "" outside a route),
    `attempts` how often it was tried (filled in by retry; 0 if nothing counted), `status` the
    number that the far side answered with, if it did and has such (HTTP).
    """

    code = "error"
    status: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.step = ""
        self.attempts = 0

    def noted(self, *notes: str) -> Self:
        """This error with something for operators alone: notes (PEP 678), which logs show and
        senders never see."""
        for note in notes:
            self.add_note(note)
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noted, without the secrets that the bus knows of."""
        return tuple(map(shown, getattr(self, "__notes__", ())))


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One mistake in a project's files. Lines and columns count from 1; 0 means the whole file.
    severity: "error", or "warning" for what most likely is a slip but would run."""

    file: str
    line: int
    column: int
    code: str
    message: str
    hint: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(EsbError):
    """The project's files are wrong; `diagnostics` lists everything found, in file order."""

    code = "config"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = sorted(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class Permanent(EsbError):
    """Trying again cannot help."""

    code = "permanent"


class BadMessage(Permanent):
    """The message is malformed or invalid.

    `errors` locates what is wrong, as `{"pointer": "/a/0", "detail": "..."}` (RFC 6901 pointers).
    """

    code = "bad-message"

    def __init__(self, detail: str, errors: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class TooLarge(BadMessage):
    """The message is over a size, depth or count limit."""

    code = "too-large"


class UnsupportedMedia(BadMessage):
    """The content type is one that nobody here reads or writes."""

    code = "unsupported-media-type"


class NoSuchOperation(BadMessage):
    """Nothing is served under that name, path or method. `allowed` lists methods that would be."""

    code = "no-such-operation"

    def __init__(self, detail: str, allowed: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.allowed = tuple(allowed)


class Denied(Permanent):
    """Credentials are missing (`authenticated` is False) or not enough."""

    code = "denied"

    def __init__(
        self, detail: str, *, authenticated: bool = False, challenge: Sequence[str] = ()
    ) -> None:
        """challenge: what would help, as `WWW-Authenticate` says it; any of several would."""
        super().__init__(detail)
        self.authenticated = authenticated
        self.challenge = (challenge,) if isinstance(challenge, str) else tuple(challenge)


class RouteFailure(Permanent):
    """The route itself is at fault: an expression or a template failed on this message."""

    code = "route-failure"


class Fault(Permanent):
    """The far side answered with a typed fault.

    `name` is the declared fault's name or "" for an undeclared one, `party` who is to blame as the
    far side sees it ("sender" or "receiver"), `data` the decoded detail, `info` protocol facts to
    show (fault code, actor, upstream status).
    """

    code = "fault"

    def __init__(
        self,
        detail: str,
        *,
        name: str = "",
        party: str = "receiver",
        type: str = "",
        data: Any = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.name = name
        self.party = party
        self.type = type
        self.data = data
        self.info = info or {}


class Rejected(Permanent):
    """The far side refused the message. `status` and `reply` hold its answer where it gave one."""

    code = "rejected"

    def __init__(self, detail: str, *, status: int | None = None, reply: Any = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reply = reply


class BadReply(Permanent):
    """The far side took the message and answered something unreadable."""

    code = "bad-reply"


class OutcomeUnknown(Permanent):
    """The message was sent and no answer came; sending it again might do its work twice."""

    code = "outcome-unknown"


class NotUndone(Permanent):
    """Part of what belongs together is done, the rest failed, and undoing failed, too: somebody has
    to look."""

    code = "not-undone"


class Expired(Permanent):
    """The message came too late to be of use."""

    code = "expired"


class Transient(EsbError):
    """May work later. `retry_after` is what the far side asked for, in seconds."""

    code = "transient"

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unreachable(Transient):
    """No connection was made, so nothing was sent."""

    code = "unreachable"


class CircuitOpen(Unreachable):
    """The far side failed too often and is left alone; `retry_after` says for how long. Nothing was
    tried, so no attempt is used up."""

    code = "circuit-open"


class InProgress(Transient):
    """Somebody else is at work on the same message or request. Nothing was tried, so no attempt is
    used up."""

    code = "in-progress"


class Unavailable(Transient):
    """The bus itself cannot do its part now: its store cannot be written, or read. `for_good`: not
    until the process starts again."""

    code = "unavailable"

    def __init__(self, detail: str, *, for_good: bool = False) -> None:
        super().__init__(detail)
        self.for_good = for_good


class TimedOut(Transient):
    """No answer in time; either nothing was sent or sending it again is safe."""

    code = "timed-out"


class Overloaded(Transient):
    """A limit of the bus or of the far side was reached."""

    code = "overloaded"


class Quota(NamedTuple):
    """How much of a limit is left to somebody.

    limit: so many within `window` seconds. left: so many now. reset: seconds until there are more.
    broken: whether this is what a message was refused for.
    """

    name: str
    limit: int
    window: int
    left: int
    reset: float
    broken: bool = False


class Throttled(Overloaded):
    """The sender asked more often than its route allows. Nothing was tried. `quotas` are all the
    limits of the route, those it broke marked."""

    code = "throttled"

    def __init__(
        self, detail: str, *, retry_after: float | None = None, quotas: Sequence[Quota] = ()
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.quotas = tuple(quotas)


def _below(kind: type[EsbError]) -> Iterator[type[EsbError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _below(inner)


KINDS: Final[Mapping[str, type[EsbError]]] = {
    kind.code: kind for kind in _below(EsbError) if kind is not ConfigError
}
"""What a message may fail with, by code. A code stands for the kinds below it, too."""


def one_of(names: Iterable[str | int]) -> Callable[[EsbError], bool]:
    """Whether an error is of one of these kinds, or one of these numbers is its status."""
    names = frozenset(names)
    kinds = tuple(kind for code, kind in KINDS.items() if code in names)

    def asked(error: EsbError) -> bool:
        return isinstance(error, kinds) or error.status in names

    return asked
