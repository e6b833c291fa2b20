"""One effect for each `Idempotency-Key`, and the same answer to whoever asks again.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ (EIP: Idempotent
Receiver). The answer is stored in one commit with what the route sends to the bus's own queues.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, Final, Literal

from pydantic import Field

from esb.adapter import Build, repeated
from esb.durable import Confirm, Unit
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadMessage, Denied, EsbError, InProgress, Permanent
from esb.identity import sender
from esb.options import Duration, Options
from esb.step import Step
from esb_web import Request, Response
from esb_web.problems import KeyReused

HEADER: Final = "idempotency-key"
AGAIN: Final = "idempotency-replayed"
_KEY: Final = re.compile(r'"([\x20-\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
_ASK_AGAIN: Final = 1.0
_NO_EFFECT: Final = (BadMessage, Denied)
"""Errors that are no answer, because the request was refused before it had any effect."""


class IdempotencyKey(Options):
    """What a request's `Idempotency-Key` means. A repeat of a request gets the answer that the
    first one got, with `Idempotency-Replayed: true`, and 409 while that is not there yet; another
    request with the same key gets 422. A request that failed without any effect may be repeated."""

    __shorthand__ = "use"

    use: Literal["optional", "required"] = Field(
        "optional", description="required: a request without one gets 400."
    )
    window: Duration = Field(86_400.0, description="How long answers are kept.")


class Once:
    """Keeps the answers of one route by the keys of requests. Keys of different principals are
    different."""

    def __init__(self, options: IdempotencyKey, build: Build) -> None:
        self._options = options
        self._store = build.store
        self._clock = build.clock
        self._scope = f"idempotency:{build.route}"

    async def answer(
        self,
        request: Request,
        envelope: Envelope,
        run: Callable[[Request, Envelope], Awaitable[Response]],
        refuse: Callable[[Request, Envelope, EsbError], Response],
        step: Step,
    ) -> Response:
        """What `run` answers to the first request with its key, and to each that repeats it.

        refuse: writes an error as an answer. step: the route's, which says whether who repeats a
        request may have the answer: roles may be gone by now. Raises what that raises, and `run`
        where it had no effect; BadMessage for a key that is missing or none, InProgress, KeyReused;
        Overloaded or Transient if the answer cannot be stored: then nothing that the route sent to
        the store is there.
        """
        key = self._key(envelope)
        if not key:
            return await run(request, envelope)
        value = f"{sender(envelope)}\n{key}"
        asked = _fingerprint(request)
        until = self._clock.time() + self._options.window
        async with Unit(self._store) as unit:
            claim = await unit.claim(self._scope, value, until)
            if claim.answer is not None:
                await _may(step, envelope)
                return _again(claim.answer, asked)
            if claim.state != "new":
                raise InProgress(
                    "a request with this Idempotency-Key is being answered", retry_after=_ASK_AGAIN
                )
            try:
                response = await run(request, envelope)
            except _NO_EFFECT:
                raise
            except Permanent as e:
                response = refuse(request, envelope, e)
            unit.add(Confirm(self._scope, value, until, _kept(response, asked)))
            await unit.commit()
            return response

    def _key(self, envelope: Envelope) -> str:
        given = envelope.headers.get_all(HEADER)
        if not given:
            if self._options.use == "required":
                raise BadMessage("this needs an Idempotency-Key header, another for each request")
            return ""
        found = _KEY.fullmatch(str(given[0])) if len(given) == 1 else None
        if found is None:
            raise BadMessage("an Idempotency-Key is one text of 1 to 255 printable characters")
        return found[1] or found[2]


def _fingerprint(request: Request) -> str:
    """What two requests that are the same have in common."""
    digest = blake2b(digest_size=16)
    kind = request.headers.get("content-type", "")
    for part in (request.method, request.raw_path, request.query_string, kind):
        digest.update(f"{part}\n".encode())
    digest.update(request.body)
    return digest.hexdigest()


def _kept(response: Response, asked: str) -> Envelope:
    facts: dict[str, Any] = {"status": response.status, "asked": asked}
    return Envelope(
        body=Body(response.body, ""),
        headers=Headers.trusted(response.headers),
        params={"answer": facts},
    )


async def _may(step: Step, envelope: Envelope) -> None:
    before = repeated.set(True)
    try:
        await step(envelope)
    finally:
        repeated.reset(before)


def _again(kept: Envelope, asked: str) -> Response:
    facts = kept.params["answer"]
    if facts["asked"] != asked:
        raise KeyReused("another request had this Idempotency-Key: each needs one of its own")
    headers = [(name, str(value)) for name, value in kept.headers]
    return Response(facts["status"], [*headers, (AGAIN, "true")], kept.body.raw)
