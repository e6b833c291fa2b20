"""Secrets of HashiCorp Vault or OpenBao: the KV engines, over their HTTP API (by hvac, which is
loaded by those who have a vault)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, SecretStr, model_validator

from esb.options import Duration, Options

T = TypeVar("T")

_MEANT: Final = {
    400: "the vault does not take the request",
    403: "the vault refuses it: permission denied",
    404: "there is no such secret",
    429: "the vault is asked too often",
    503: "the vault is sealed, or in maintenance",
}

_LARGEST: Final = 4 * 1024 * 1024
"""Bytes of an answer that are read; a vault keeps no secret above 1 MiB (`max_entry_size`)."""


class _Unread(OSError):
    """An answer that is not read on; the text says why, without what is in it."""


class AppRole(Options):
    """A role that programs log in with."""

    role_id: str = Field(description="The role's id.")
    secret_id: SecretStr = Field(description="Its secret; write ${NAME} or name a secret file.")
    mount: str = Field("approle", description="Where the method is mounted.")


class KubernetesLogin(Options):
    """Log in as the pod's service account."""

    role: str = Field(description="The role that the account has in the vault.")
    jwt: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="The account's token, read at each log-in.",
    )
    mount: str = Field("kubernetes", description="Where the method is mounted.")


class VaultOptions(Options):
    """HashiCorp Vault or OpenBao, for `${vault:mount/path#field}`. It needs `esb[vault]`."""

    url: str = Field(description="Its address: https://vault.example:8200.")
    token: SecretStr | None = Field(None, description="A token to ask with; it is renewed.")
    approle: AppRole | None = Field(None, description="Log in with a role and its secret.")
    kubernetes: KubernetesLogin | None = Field(
        None, description="Log in as the pod's service account."
    )
    namespace: str = Field("", description="The namespace of all paths.")
    ca: Path | None = Field(
        None,
        description="PEM file: trust these authorities instead of those that the client brings; "
        "a relative path is one of the project.",
    )
    timeout: Duration = Field(5.0, description="Time for one answer.")
    mounts: dict[str, Literal[1, 2]] = Field(
        {},
        description="Versions of KV engines by where they are mounted. Of a reference, the first "
        "part is the mount, and its version 2, unless it begins with one of these.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> VaultOptions:
        ways = (self.token, self.approle, self.kubernetes)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("a vault is asked with one of token, approle or kubernetes")
        if not re.match(r"https?://[^/\s@]+", self.url):
            raise ValueError("url is https://host:port, without credentials")
        return self


def session(options: VaultOptions, root: Path) -> Vault:
    """The session that this process has with a vault, which has forgotten what it read; a new one
    if there is none yet. So a reload is no log-in: those may be counted (`secret_id_num_uses`), and
    each leaves a token behind. Raises as `Vault` does."""
    global _session
    who = os.getpid(), root
    if _session is None or _session[:2] != (who, options):
        _session = who, options, Vault(options, root)
    else:
        _session[2].renew()
    return _session[2]


class Vault:
    """A session with a vault; the first question logs in. Blocks, so it belongs in a thread.

    root: the folder of the project. Whatever fails is a ValueError that says what is wrong, without
    values. Raises ValueError if the client is not installed.
    """

    def __init__(self, options: VaultOptions, root: Path) -> None:
        try:
            import hvac  # type: ignore[import-untyped]
            import requests
        except ImportError as e:
            raise ValueError("a vault needs hvac: pip install 'esb[vault]'") from e
        self._options = options
        session = requests.Session()
        # Neither a proxy nor a password of ~/.netrc may come in between.
        session.trust_env = False
        session.verify = str(root / options.ca) if options.ca is not None else True
        for scheme in ("https://", "http://"):
            session.mount(scheme, _bounded(options.timeout))
        self._client: Any = hvac.Client(
            url=options.url,
            token=options.token.get_secret_value() if options.token is not None else "",
            timeout=options.timeout,
            namespace=options.namespace or None,
            allow_redirects=False,  # the token goes to this address alone
            session=session,
        )
        self._failures: tuple[type[Exception], ...] = (
            hvac.exceptions.VaultError, requests.RequestException, OSError,
        )  # fmt: skip
        self._denied: type[Exception] = hvac.exceptions.Forbidden
        self._renew_at = 0.0
        self._lock = RLock()
        self._read: dict[str, dict[str, Any]] = {}

    def read(self, place: str, field: str) -> str:
        """A field of the secret at `place`, which is a mount and a path in it."""
        with self._lock:
            data = self._read.get(place)
            if data is None:
                data = self._read[place] = self._told(lambda: self._ask(place))
        value = data.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            there = "is no text" if field in data else "is not in the secret"
            raise ValueError(f"the field '{field}' {there}")
        return str(value)

    def renew(self) -> None:
        """Keep the session for as long again, and forget what was read."""
        with self._lock:
            self._read = {}
            if self._client.token and monotonic() >= self._renew_at:
                self._told(self._renewed)

    def _ask(self, place: str) -> dict[str, Any]:
        if not self._client.token:
            self._log_in()
        try:
            return self._secret(place)
        except self._denied:
            if self._options.token is not None:
                raise
            self._log_in()  # the session may be over; who is not allowed is refused again
            return self._secret(place)

    def _secret(self, place: str) -> dict[str, Any]:
        mounts = self._options.mounts
        mount = max((m for m in mounts if place.startswith(f"{m}/")), key=len, default="")
        mount = mount or place.partition("/")[0]
        path, kv = place[len(mount) + 1 :], self._client.secrets.kv
        if mounts.get(mount, 2) == 1:
            answer = kv.v1.read_secret(path, mount_point=mount)
            data = answer["data"]
        else:
            answer = kv.v2.read_secret_version(
                path, mount_point=mount, raise_on_deleted_version=True
            )
            data = answer["data"]["data"]
        if not isinstance(data, dict):
            raise TypeError("data")
        return data

    def _log_in(self) -> None:
        options, auth = self._options, self._client.auth
        if (role := options.approle) is not None:
            answer = auth.approle.login(
                role.role_id, role.secret_id.get_secret_value(), mount_point=role.mount
            )
        else:
            pod = options.kubernetes
            assert pod is not None
            answer = auth.kubernetes.login(
                pod.role, pod.jwt.read_text().strip(), mount_point=pod.mount
            )
        self._lasts(answer)

    def _renewed(self) -> None:
        try:
            self._lasts(self._client.auth.token.renew_self())
        except self._failures:
            # One that cannot be renewed lasts as long as it lasts; whoever can logs in anew.
            if self._options.token is None:
                self._log_in()

    def _lasts(self, answer: Any) -> None:
        self._renew_at = monotonic() + float(answer["auth"]["lease_duration"]) / 2

    def _told(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._failures as e:
            raise ValueError(_why(e)) from e
        except (TypeError, KeyError, AttributeError) as e:
            raise ValueError("the vault answers with something else than a secret") from e


_session: tuple[tuple[int, Path], VaultOptions, Vault] | None = None


def _bounded(seconds: float) -> Any:
    """What reads answers for requests, whose time-out begins anew with every byte and which has no
    limit of size: the body of one within `seconds`, up to _LARGEST bytes, none that points
    elsewhere. Its `send` raises _Unread as well."""
    import requests
    import urllib3

    class Bounded(requests.adapters.HTTPAdapter):
        def send(self, *request: Any, **options: Any) -> Any:
            until = monotonic() + seconds
            answer: Any = super().send(*request, **{**options, "stream": True})
            try:
                if answer.is_redirect:  # a standby's; the token goes to no other address
                    raise _Unread("the vault sends to another address, which is not followed")
                read = BytesIO()
                while part := answer.raw.read1(65536, decode_content=True):
                    read.write(part)
                    if read.tell() > _LARGEST:
                        raise _Unread("the vault's answer is too large for a secret")
                    if monotonic() > until:
                        raise _Unread("the vault's answer does not come to an end in time")
            except urllib3.exceptions.HTTPError as e:
                raise requests.ConnectionError(e) from e
            except _Unread:
                answer.close()  # with what is still to come
                raise
            read.seek(0)
            answer.raw.release_conn()
            answer.raw = read
            return answer

    return Bounded()


def _why(e: Exception) -> str:
    import hvac

    if isinstance(e, hvac.exceptions.VaultError):
        for status, meant in _MEANT.items():
            if type(e) is type(hvac.exceptions.VaultError.from_status(status)):
                return meant
        return f"the vault fails ({type(e).__name__})"
    if isinstance(e, _Unread):
        return str(e)
    if isinstance(e, OSError) and e.strerror and e.filename:  # the token of the account
        return f"{e.filename}: {e.strerror}"
    return f"the vault cannot be reached ({type(e).__name__})"
