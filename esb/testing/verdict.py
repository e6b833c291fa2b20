"""What a test expected, held against what was seen; each difference at the line that says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from esb.adapter import Expression
from esb.build import Builder
from esb.durable import Stored
from esb.envelope import Body, Envelope, Outcome, parse_content_type
from esb.errors import EsbError
from esb.mistakes import did_you_mean
from esb.outline import Part
from esb.testing.compare import differences, differences_of_values, shown
from esb.testing.models import Answer, Call, Dead, Expect, Expected, ExpectedError
from esb.testing.play import Played, Run, Told
from esb.testing.stage import Sent, Stage

MOST_CALLS = 20


class Failure(NamedTuple):
    """Something that is not as expected, and where that is expected."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class Checked:
    """An `Expected`, or what is made of one, with what it needs to be held against a message.
    Raises BuildFailed for what is wrong with it."""

    def __init__(self, place: Builder, raw: Any, model: type[Any]) -> None:
        self.place = place
        self.options: Any = place.validate(model, raw)
        self.that: list[tuple[Expression, str]] = []
        self.file: str | None = None
        if isinstance(self.options, Expected):
            several = isinstance(raw, dict) and isinstance(raw.get("that"), list)
            self.that = [
                (place.expression(source, "that", *((i,) if several else ())), source)
                for i, source in enumerate(self.options.that)
            ]
            if self.options.file:
                try:
                    self.file = place.file(self.options.file, "file").read_text(encoding="utf-8")
                except UnicodeDecodeError as e:
                    raise place.problem("it is not UTF-8 text", "file", code="file") from e

    def says(self, name: str) -> bool:
        """Whether it expects something of `name`."""
        return name in self.options.model_fields_set


class Expectation(Checked):
    """What a test expects in the end. Raises BuildFailed."""

    def __init__(self, place: Builder, raw: Any) -> None:
        super().__init__(place, raw, Expect)
        options: Expect = self.options
        self.error = _inner(place, options.error, ExpectedError, "error")
        self.calls = [
            Checked(place.at("calls", i), one, Call) for i, one in enumerate(options.calls or ())
        ]
        self.channels = {
            name: list(_several(place.at("channels", name), one, Expected))
            for name, one in (options.channels or {}).items()
        }
        self.dead = list(_several(place.at("dead"), options.dead, Dead))


class Answered(Checked):
    """What a test expects the sender of one message to be told. Raises BuildFailed."""

    def __init__(self, place: Builder, raw: Any) -> None:
        super().__init__(place, raw, Answer)
        self.error = _inner(place, self.options.error, ExpectedError, "error")


def _inner(place: Builder, raw: Any, model: type[Any], name: str) -> Checked | None:
    return None if raw is None else Checked(place.at(name), raw, model)


def _several(place: Builder, raw: Any, model: type[Any]) -> Iterator[Checked]:
    if isinstance(raw, list):
        for i, one in enumerate(raw):
            yield Checked(place.at(i), one, model)
    elif raw is not None:
        yield Checked(place, raw, model)


class Verdict:
    """Holds what was `played` on a `stage` against what a test expects.

    test: the place of the test. log: the lines of its `log` steps. outlines: what the routes of the
    project are made of.
    """

    def __init__(
        self,
        test: Builder,
        played: Played,
        stage: Stage,
        log: Sequence[str],
        outlines: Iterable[Part],
    ) -> None:
        self._test = test
        self._played = played
        self._stage = stage
        self._log = log
        self._outlines = outlines
        self._failures: list[Failure] = []

    def failures(
        self, expect: Expectation, answers: Sequence[Answered | None]
    ) -> Sequence[Failure]:
        """All that is not as expected. answers: what is expected of the messages one by one."""
        for problem in self._stage.problems:
            self._fail(self._test, problem, key=True)
        if self._failures:
            return self._failures  # what is not as expected besides, follows from that
        told = self._played.told
        own = [run for run in self._played.runs if run.route == self._stage.route]
        for number, (one, answer) in enumerate(zip(told, answers, strict=False)):
            if answer is not None:
                self._answer(answer, one, _last(run for run in own if run.of == number))
        last = _last(own)
        self._answer(expect, told[-1] if told else Told(), last)
        if expect.says("calls") and expect.options.calls is not None:
            self._calls(expect)
        self._channels(expect)
        self._dead(expect, last.result if last is not None else None)
        self._took(expect)
        self._logged(expect)
        return self._failures

    def _fail(self, place: Builder, message: str, *path: str | int, key: bool = False) -> None:
        line, column = place.mark(path, key=key)
        self._failures.append(Failure(place.document.file, line, column, message))

    # --- what the sender is told

    def _answer(self, expect: Expectation | Answered, told: Told, run: Run | None) -> None:
        options: Answer = expect.options
        error = told.error or (run.error if run is not None else None)
        facts: Mapping[str, Any] = told.answer.params.get("reply", {}) if told.answer else {}
        status = facts.get("status")
        code, detail = (error.code, error.detail) if error else ("", "")
        step = error.step if error else ""
        if not error and facts.get("code"):
            code, detail = str(facts["code"]), str(facts.get("detail", ""))
        if expect.error is not None:
            self._error(expect.error, code, detail, step, told)
        elif error and status is None and not expect.says("dead"):
            at = f" at {step}" if step else ""
            self._fail(expect.place, f"the route ends with the error {code}{at}: {detail}",
                       key=True)  # fmt: skip
            return
        if options.status is not None and options.status != status:
            got = f"got {status}{_because(told, code, detail)}" if status else "there is none"
            self._fail(expect.place, f"status: expected {options.status}, {got}", "status")
            return  # what else differs follows from that
        elif options.status is None and expect.error is None and status and status >= 400:
            because = _because(told, code, detail)
            self._fail(expect.place, f"it is answered with status {status}{because}", key=True)
        message = told.answer or (run.result if run is not None else None)
        outcome = (run.result if run is not None and run.result else message) or None
        if options.outcome is not None:
            got = "an error" if outcome is None else outcome.outcome.value
            if got != options.outcome:
                self._fail(
                    expect.place, f"outcome: expected {options.outcome}, got {got}", "outcome"
                )
        self._message(expect, message)

    def _error(self, expect: Checked, code: str, detail: str, step: str, told: Told) -> None:
        wanted: ExpectedError = expect.options
        if not code:
            became = "no error"
            if told.answer is not None:
                became += f", and the body {shown(_readable(told.answer.body))}"
            self._fail(expect.place, f"error: expected {wanted.code or 'one'}, got {became}")
            return
        self._failed(expect, wanted, code, detail, step)

    def _failed(
        self, expect: Checked, wanted: ExpectedError | Dead, code: str, detail: str, step: str
    ) -> None:
        """Whether an error is the one that was wanted."""
        where = expect.place
        if wanted.code and wanted.code != code:
            self._fail(where, f"code: expected {wanted.code}, got {code}: {detail}", "code")
        if wanted.detail and wanted.detail not in detail:
            got = f"expected a text with {shown(wanted.detail)}, got {shown(detail)}"
            self._fail(where, f"detail: {got}", "detail")
        if wanted.step and not (step == wanted.step or step.startswith(f"{wanted.step}.")):
            self._fail(where, f"step: expected {wanted.step}, got {step or 'none'}", "step")

    # --- a message

    def _message(self, expect: Checked, message: Envelope | None, what: str = "") -> None:
        names = ("body", "body_includes", "file", "content_type", "headers", "that")
        asked = [name for name in names if expect.says(name)]
        if not asked:
            return
        if message is None:
            self._fail(
                expect.place, f"{what or asked[0]}: there is no message to look at", asked[0]
            )
            return
        for name, message_text in self._differences(expect, message):
            self._fail(expect.place, f"{what}{message_text}", *name)

    def _differences(
        self, expect: Checked, message: Envelope
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where a message is not as expected: the place that expects it, and what differs."""
        wanted: Expected = expect.options
        body = message.body
        if expect.says("body"):
            if wanted.body is None and body.is_empty:
                pass
            else:
                for one in differences(wanted.body, body):
                    yield _place("body", wanted.body, one.at), _told("body", one)
        if expect.says("body_includes"):
            for one in differences(wanted.body_includes, body, part=True):
                yield _place("body_includes", wanted.body_includes, one.at), _told("body", one)
        if expect.file is not None:
            for one in differences(expect.file, body):
                yield ("file",), _told("body", one)
        if wanted.content_type:
            got = parse_content_type(message.content_type).essence
            if parse_content_type(wanted.content_type).essence != got:
                yield (
                    ("content_type",),
                    f"content type: expected {wanted.content_type}, got {got or 'none'}",
                )
        for name, value in wanted.headers.items():
            found = message.headers.get_all(name)
            if value is None and found:
                yield ("headers", name), f"header {name}: expected none, got {shown(found[0])}"
            elif value is not None:
                values = value if isinstance(value, list) else [value]
                texts = list(map(_header, found))
                if list(map(_header, values)) != texts:
                    got = ", ".join(map(shown, texts)) or "none"
                    yield ("headers", name), f"header {name}: expected {shown(value)}, got {got}"
        several = len(expect.that) > 1
        for i, (holds, source) in enumerate(expect.that):
            try:
                if not (value := holds(message)):
                    because = f"body: {shown(_readable(body))}"
                    yield (
                        (("that", i) if several else ("that",)),
                        (f"not true: {source} gave {shown(value)}; {because}"),
                    )
            except EsbError as e:
                yield (("that", i) if several else ("that",)), f"{source}: {e.detail}"

    # --- what left the route

    def _calls(self, expect: Expectation) -> None:
        wanted = [one for one in expect.calls for _ in range(one.options.times)]
        left = list(self._stage.sent)
        if expect.options.any_order:
            for one in wanted:
                same = [sent for sent in left if self._is_to(one, sent)]
                hit = next((sent for sent in same if not any(self._in_call(one, sent))), None)
                if hit is None and same:
                    hit = same[0]
                if hit is None:
                    self._fail(one.place, f"no call of '{one.options.to}'{self._instead(left)}")
                    continue
                left.remove(hit)
                self._call(one, hit)
        else:
            for one in wanted:
                if not left or not self._is_to(one, left[0]):
                    self._fail(
                        one.place,
                        f"expected a call of '{one.options.to}'{self._instead(left[:1])}",
                        "to",
                    )
                    return
                self._call(one, left.pop(0))
        if left:
            more = "more " if wanted else ""
            self._fail(expect.place, f"calls: {len(left)} {more}than expected{_listed(left)}",
                       "calls", key=True)  # fmt: skip

    def _is_to(self, call: Checked, sent: Sent) -> bool:
        return bool(sent.endpoint.rank(call.options.to, self._stage.route))

    def _instead(self, left: Sequence[Sent]) -> str:
        return _listed(left, ", got") if left else ", there is none"

    def _call(self, expect: Checked, sent: Sent) -> None:
        for place, text in self._in_call(expect, sent):
            self._fail(expect.place, f"call of '{expect.options.to}': {text}", *place)

    def _in_call(self, expect: Checked, sent: Sent) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield from self._differences(expect, sent.message)
        for name, value in expect.options.sent.items():
            for one in differences_of_values(value, sent.facts.get(name), part=True):
                yield ("sent", name), _told(name, one)

    def _channels(self, expect: Expectation) -> None:
        for name, wanted in expect.channels.items():
            got = [
                message
                for channel, message in self._stage.put
                if name in (channel, channel.partition(":")[2], channel.replace(":", " ", 1))
            ]
            place = expect.place.at("channels")
            if not got and not self._is_channel(name):
                known = sorted(n.partition(" ")[2] for n in self._known_channels())
                hint = did_you_mean(name, known)
                self._fail(place, f"no route sends to '{name}'" + (f" ({hint})" if hint else ""),
                           name, key=True)  # fmt: skip
            elif len(got) != len(wanted):
                bodies = "".join(f"\n    {shown(_readable(m.body))}" for m in got[:MOST_CALLS])
                self._fail(
                    place, f"'{name}' got {_count(got)}, expected {len(wanted)}{bodies}", name,
                    key=True,
                )  # fmt: skip
            else:
                for one, message in zip(wanted, got, strict=True):
                    self._message(one, message, f"in '{name}': ")

    def _known_channels(self) -> set[str]:
        return {
            channel.name
            for outline in self._outlines
            for part in outline.walk()
            for channel in part.channels
            if part.kind == "endpoint" and not channel.outside
        }

    def _is_channel(self, name: str) -> bool:
        known = self._known_channels()
        return not known or any(name in (one, one.partition(" ")[2]) for one in known)

    def _dead(self, expect: Expectation, last: Envelope | None) -> None:
        dead = self._played.dead
        if not expect.says("dead"):
            if expect.options.outcome == "dead":
                pass
            elif dead:
                self._fail(expect.place, f"a dead letter: {_reason(dead[0])}", key=True)
            elif last is not None and last.outcome is Outcome.DEAD and not expect.says("calls"):
                self._fail(expect.place, "the route gave the message up (outcome: dead)", key=True)
            return
        if len(dead) != len(expect.dead):
            told = "".join(f"\n    {_reason(one)}" for one in dead[:MOST_CALLS])
            wanted = _letters(len(expect.dead))
            self._fail(expect.place, f"expected {wanted}, got {len(dead)}{told}", "dead", key=True)
            return
        for one, stored in zip(expect.dead, dead, strict=True):
            failure = stored.failure
            assert failure is not None
            self._failed(one, one.options, failure.code, failure.detail, failure.step)
            attempts = one.options.attempts
            if attempts is not None and attempts != failure.attempts:
                self._fail(one.place, f"attempts: expected {attempts}, "
                           f"got {failure.attempts}", "attempts")  # fmt: skip
            self._message(one, stored.envelope, "dead letter: ")

    def _took(self, expect: Expectation) -> None:
        if (wanted := expect.options.took) is None:
            return
        took = self._played.took
        if not wanted.first - 0.001 <= took <= wanted.longest + 0.001:
            span = f"{wanted.first:g}s"
            if wanted.longest != wanted.first:
                span += f" to {wanted.longest:g}s"
            self._fail(expect.place, f"took: expected {span}, got {took:.3f}s", "took")

    def _logged(self, expect: Expectation) -> None:
        left = list(self._log)
        for i, text in enumerate(expect.options.log):
            found = next((n for n, line in enumerate(left) if text in line), None)
            if found is None:
                lines = "".join(f"\n    {line}" for line in left) or " nothing"
                self._fail(expect.place, f"log: no line with {shown(text)} in{lines}", "log", i)
                return
            left = left[found + 1 :]


def _last(runs: Iterable[Run]) -> Run | None:
    return next(reversed(list(runs)), None)


def _told(what: str, difference: Any) -> str:
    at = difference.at
    if at.startswith("/"):
        what, difference = f"{what}{at}", difference._replace(at="")
    elif at:
        joint = "" if at.startswith("[") else "."
        what, difference = f"{what}{joint}{at}", difference._replace(at="")
    return f"{what}: {difference}"


def _header(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _place(key: str, wanted: Any, at: str) -> tuple[str | int, ...]:
    """Where in the test the value stands that differs `at` a place in the body."""
    path: list[str | int] = [key]
    for name in at.replace("[", ".[").split("."):
        try:
            inner: str | int = int(name[1:-1]) if name.startswith("[") else name
            wanted = wanted[inner]
        except (KeyError, IndexError, TypeError, ValueError):
            break
        path.append(inner)
    return tuple(path)


def _readable(body: Body) -> Any:
    try:
        return body.data
    except EsbError:
        return body.raw


def _because(told: Told, code: str, detail: str) -> str:
    if code:
        return f" ({code}: {detail})"
    if told.answer is None or told.answer.body.is_empty:
        return ""
    return f": {shown(_readable(told.answer.body))}"


def _listed(sent: Sequence[Sent], word: str = "") -> str:
    lines = [f"\n    {one.endpoint.shown}: {shown(_readable(one.message.body))}" for one in sent]
    return word + "".join(lines[:MOST_CALLS])


def _count(got: Sequence[Any]) -> str:
    return f"{len(got)} message{'s' * (len(got) != 1)}" if got else "nothing"


def _letters(count: int) -> str:
    return f"{count or 'no'} dead letter{'s' * (count != 1)}"


def _reason(stored: Stored) -> str:
    failure = stored.failure
    if failure is None:
        return f"message {stored.envelope.id}"
    at = f" at {failure.step}" if failure.step else ""
    return f"{failure.code} of route '{failure.route}'{at}: {failure.detail}"
