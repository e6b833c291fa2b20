"""Requests whose credentials are made for each: by what is sent, by the time, or by what another
service gives."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from esb.adapter import Build
from esb.clock import current
from esb.deadlines import TimeLimit
from esb.envelope import PIECE, Body
from esb.errors import TimedOut
from esb.signing import sign
from esb_web.client import ClientOptions, ClientReply, WebClient
from esb_web.credentials import AWS, AwsSigV4, Hmac
from esb_web.messages import Headerlist, remaining

if TYPE_CHECKING:
    from esb_web.rehearsal import PlayedPool
    from esb_web.transport import Pool

_DIGEST: Final = "digest of the body"


class Signer(Protocol):
    """Makes the credentials of single requests."""

    async def sign(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | Body | None
    ) -> Headerlist:
        """The headers to add. Raises EsbError if there are none to be had."""
        ...

    def refused(self, signed: Headerlist) -> bool:
        """The far side answered 401 to these: whether there may be better ones now."""
        ...


class SigningClient(WebClient):
    """One whose requests have credentials of their own."""

    def __init__(
        self, pool: Pool | PlayedPool, options: ClientOptions, signer: Signer, *, accept: str = ""
    ) -> None:
        super().__init__(pool, options, accept=accept)
        self._signer = signer

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | Body | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> ClientReply:
        """See WebClient. The credentials are part of the attempt, also in its time. After a 401 it
        is made once more, with others: nothing was done."""
        seconds = remaining(deadline, self._timeout if timeout is None else timeout)
        due = current.get().monotonic() + seconds
        again = not isinstance(body, Body) or not body.is_stream
        while True:
            try:
                with TimeLimit(max(0.0, due - current.get().monotonic())):
                    signed = await self._signer.sign(method, url, headers, body)
            except TimeoutError:
                raise TimedOut("no time was left to ask the service") from None
            reply = await super().request(
                method, url, headers=[*headers, *signed], body=body, deadline=due, timeout=seconds,
                **more,
            )  # fmt: skip
            if reply.status != 401 or not self._signer.refused(signed) or not again:
                return reply
            again = False
            if reply.stream is not None:
                await reply.stream.aclose()


def signing_client(
    build: Build,
    pool: Pool | PlayedPool,
    options: ClientOptions,
    unlimited: Callable[[], Pool] | None,
    accept: str,
) -> WebClient:
    """The client of an endpoint with these options. unlimited: gives the pool for token endpoints,
    which no message chooses; None where there are none. Raises ValueError for what cannot sign."""
    auth = options.auth
    assert auth is not None
    signer: Signer
    if auth.hmac is not None:
        signer = HmacSigner(auth.hmac)
    elif auth.aws_sigv4 is not None:
        signer = AwsSigner(auth.aws_sigv4)
    else:
        assert auth.oauth2 is not None
        from esb_web.oauth2 import tokens

        signer = tokens(build, auth.oauth2, options, unlimited)
    return SigningClient(pool, options, signer, accept=accept)


class HmacSigner:
    """See Hmac."""

    def __init__(self, options: Hmac) -> None:
        self._options = options

    async def sign(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | Body | None
    ) -> Headerlist:
        """See Signer."""
        options, now = self._options, current.get().time()
        secret = options.secret.get_secret_value().encode()
        value = await _over(body, lambda: sign(options.form, secret, _pieces(body), now))
        return [(options.header, value)]

    def refused(self, signed: Headerlist) -> bool:
        """See Signer."""
        return False


class AwsSigner:
    """See AwsSigV4. Raises ValueError if the library is not installed.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def __init__(self, options: AwsSigV4) -> None:
        try:
            from botocore.auth import S3SigV4Auth, SigV4Auth  # type: ignore[import-untyped]
            from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
            from botocore.credentials import Credentials  # type: ignore[import-untyped]
        except ImportError as e:
            raise ValueError("aws_sigv4 needs botocore: pip install 'esb[aws]'") from e
        token = options.session_token
        credentials = Credentials(
            options.access_key_id,
            options.secret_access_key.get_secret_value(),
            token.get_secret_value() if token is not None else None,
        )
        # Only S3 takes a path as it is (see "canonical URI").
        kind: Any = S3SigV4Auth if options.service == "s3" else SigV4Auth

        class Signature(kind):  # type: ignore[misc]
            """One over a body that need not be in memory."""

            def payload(self, request: Any) -> str:
                return str(request.context[_DIGEST])

        self._auth = Signature(credentials, options.service, options.region)
        self._request: Any = AWSRequest
        self._signs_body = options.payload == "signed"

    async def sign(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | Body | None
    ) -> Headerlist:
        """See Signer."""
        told = {name: value for name, value in headers if name.lower().startswith("x-amz-")}
        request = self._request(method, url, headers=told)
        request.context["payload_signing_enabled"] = self._signs_body
        request.context[_DIGEST] = "UNSIGNED-PAYLOAD"
        if self._signs_body:
            request.context[_DIGEST] = await _over(body, lambda: _sha256(_pieces(body)))
        self._auth.add_auth(request)
        return [(name, value) for name in AWS if (value := request.headers.get(name))]

    def refused(self, signed: Headerlist) -> bool:
        """See Signer."""
        return False


def _pieces(body: bytes | Body | None) -> Iterator[bytes]:
    if isinstance(body, Body):
        with body.open() as file:
            while piece := file.read(PIECE):
                yield piece
    elif body:
        yield body


def _sha256(pieces: Iterator[bytes]) -> str:
    made = hashlib.sha256()
    for piece in pieces:
        made.update(piece)
    return made.hexdigest()


async def _over(body: bytes | Body | None, work: Callable[[], str]) -> str:
    """Do work on a body; off the event loop, if it is large or lies in a file."""
    if isinstance(body, Body) or len(body or b"") > PIECE:
        return await asyncio.to_thread(work)
    return work()
