"""HTTP without a network, for tests of routes: far sides that are played, and requests that come in
without a socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from esb.adapter import RequestReply
from esb.clock import current
from esb.envelope import NO_BODY, Body, Envelope, Headers, parse_content_type
from esb.errors import EsbError, OutcomeUnknown, TimedOut
from esb.identity import Principal
from esb_web.client import ClientReply
from esb_web.messages import Request, Response, Site, header_text
from esb_web.problems import PROBLEM, problem
from esb_web.standing import Standing

TIMEOUT: Final = 60.0
"""Seconds that the caller of a site waits that says nothing else."""

_PARAMETER = re.compile(r"/([:*])(\w+)")


class PlayedPool:
    """In the place of a pool of connections: whoever plays the far side gets each request as a
    message, and says what comes back."""

    def __init__(self, stand_in: RequestReply) -> None:
        self._stand_in = stand_in

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | Body | None,
        standing: Standing,
        *,
        timeout: float,
        idempotent: bool,
        **_: Any,
    ) -> ClientReply:
        """As that of a pool. Raises what the far side fails with; an answer that takes longer than
        `timeout` does not come."""
        own = {name.lower() for name, _ in headers}
        headers = [*headers, *(pair for pair in standing.headers if pair[0].lower() not in own)]
        content_type = next((v for n, v in headers if n.lower() == "content-type"), "")
        if isinstance(body, Body):
            body = body.raw
        sent = Envelope(
            body=Body(body, content_type) if body is not None else NO_BODY,
            headers=Headers(pair for pair in headers if pair[0].lower() != "content-type"),
            params={"sent": {"method": method, "url": url}},
        )
        try:
            async with asyncio.timeout(timeout):
                reply = await self._stand_in.call(sent)
        except TimeoutError:
            if idempotent:
                raise TimedOut("the service did not answer in time") from None
            raise OutcomeUnknown(
                "the service did not answer in time; what it did is unknown"
            ) from None
        status = reply.params["reply"].get("status", 200)
        answered = [(name, header_text(value) or "") for name, value in reply.headers]
        if reply.content_type:
            answered.append(("Content-Type", reply.content_type))
        return ClientReply(status, Headers(answered), reply.body.raw, reply.content_type)


async def rehearse(site: Site, given: Envelope) -> Envelope:
    """As if `given` had come to a site as a request; its method is in the params "http". What is
    answered, with its status, and of a problem its code and detail, as params "reply".

    Raises ValueError for what is no request of this site.
    """
    request = _request(site, given)
    try:
        response = await site.handler(request)
    except EsbError as e:
        response = problem(e, instance=request.raw_path)
    return _reply(given, response)


def _request(site: Site, given: Envelope) -> Request:
    method = given.params.get("http", {}).get("method") or site.methods[0]
    if method not in site.methods and not (method == "HEAD" and "GET" in site.methods):
        raise ValueError(f"{site.path} has no {method}: {', '.join(site.methods)}")
    left = {name: str(value) for name, value in given.params.get("path", {}).items()}
    path_params: dict[str, str] = {}

    def filled(found: re.Match[str]) -> str:
        name = found[2]
        if name not in left:
            raise ValueError(f"its path has a '{name}': give `path: {{{name}: ...}}`")
        path_params[name] = left.pop(name)
        return "/" + (path_params[name] if found[1] == "*" else quote(path_params[name], safe=""))

    raw_path = _PARAMETER.sub(filled, site.path)
    if left:
        raise ValueError(f"{site.path} has no parameter '{next(iter(left))}'")
    query: Mapping[str, Any] = {
        name: [str(one) for one in value] if isinstance(value, list) else str(value)
        for name, value in given.params.get("query", {}).items()
    }
    headers = [(name, header_text(value) or "") for name, value in given.headers]
    if given.content_type:
        headers.append(("Content-Type", given.content_type))
    facts = given.params.get("principal", {})
    who = None
    if given.principal:
        who = Principal(
            name=given.principal, method="test", roles=tuple(facts.get("roles", ())),
            scopes=tuple(facts.get("scopes", ())), claims=facts.get("claims", {}),
        )  # fmt: skip
    return Request(
        method=method,
        path=raw_path,
        headers=Headers(headers),
        path_params=path_params,
        query=query,
        query_string=urlencode(query, doseq=True),
        raw_path=raw_path,
        body=given.body.raw,
        client="127.0.0.1",
        host="localhost",
        deadline=current.get().monotonic() + (site.timeout or TIMEOUT),
        principal=given.principal,
        who=who,
    )


def _reply(given: Envelope, response: Response) -> Envelope:
    content_type = next((v for n, v in response.headers if n.lower() == "content-type"), "")
    body = Body(response.body, content_type) if response.body or content_type else NO_BODY
    facts: dict[str, Any] = {"status": response.status}
    if parse_content_type(content_type).essence == PROBLEM and isinstance(body.data, dict):
        # Also where the request was refused before it got into the route.
        kind = str(body.data.get("type", ""))
        facts["code"] = kind.removeprefix("urn:esb:problem:") if kind else ""
        facts["detail"] = body.data.get("detail", "")
    headers = [pair for pair in response.headers if pair[0].lower() != "content-type"]
    return given.reply(body, Headers(headers), facts)
