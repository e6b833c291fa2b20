"""What `${...}` in the files of a project stands for, and where that is looked up.

    ${NAME}, ${NAME:-default}   the environment
    ${file:path}                a file, relative to the one that names it
    ${k8s:NAME/KEY}             a key of a Secret that Kubernetes has mounted
    ${vault:mount/path#field}   HashiCorp Vault or OpenBao, KV version 1 or 2 (see esb.vault)

What is wrong is told with the reference, never with a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from esb.options import Duration, Options
from esb.redaction import OUTSIDE, secret_values, spelled
from esb.vault import Vault, VaultOptions, session

ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET: Final = re.compile(r"([A-Za-z0-9][\w.-]*)/((?!\.\.)[\w.-]+)\Z", re.ASCII)
_PLACE: Final = re.compile(r"([\w.~-]+(?:/[\w.~ -]+)+)#([^#]+)\Z", re.ASCII)


class SecretsOptions(Options):
    """Where `${k8s:...}` and `${vault:...}` are looked up, and how often again."""

    kubernetes: Path = Field(
        Path("/var/run/secrets"),
        description="The folder in which Secrets are mounted, each in a folder of its name; a "
        "relative path is one of the project.",
    )
    vault: VaultOptions | None = Field(None, description="A vault.")
    refresh: Duration | Literal["never"] = Field(
        300.0,
        description="How often a running bus looks whether a secret of a file, of Kubernetes or of "
        "the vault is another one; then it reloads. `never`: only when it is told to reload.",
    )


class References:
    """Resolves `${...}`. With `environ` None every reference stands for itself (`--no-env`).

    asks: whether a vault may be asked; if not, its references stand for themselves as well.
    options, root: where to look things up; known once the files are read. settled: whether the
    options are what the project says for sure, so that a vault that is not there is missing.
    """

    def __init__(self, environ: Mapping[str, str] | None, *, asks: bool = False) -> None:
        self.environ = environ
        self.asks = asks
        self.options = SecretsOptions()
        self.settled = False
        self.root = Path()
        self.files: set[Path] = set()  # that were read
        self.resolved: dict[str, str] = {}  # what came from outside, by what stands in the braces
        self.called_so: set[str] = set()  # what stands below a key whose name says it is a secret
        self._folders: dict[str, Path] = {}  # of what may change meanwhile
        self._vault: Vault | None = None

    def is_open(self, reference: str) -> bool:
        """Whether nobody here can say what it stands for, so that it stands for itself."""
        return self.environ is None or (reference.startswith("vault:") and not self.asks)

    def resolve(self, reference: str, folder: Path) -> str:
        """The value of what stands between the braces. Raises ValueError with what is wrong."""
        if reference.startswith(OUTSIDE):
            if self.is_open(reference):
                if reference.startswith("vault:"):
                    self._place(reference)  # a slip is told without asking
                    if self.settled:
                        self._known_vault(reference)
                return "${" + reference + "}"
            self._folders[reference] = folder
            value = self.resolved[reference] = self._look_up(reference, folder)
            return value
        name, has_default, default = reference.partition(":-")
        scheme, colon, _ = name.partition(":")
        if colon and ENV_NAME.match(scheme):
            known = ", ".join(f"${{{one}...}}" for one in OUTSIDE)
            raise ValueError(f"nothing is looked up by '{scheme}:'; there are {known}")
        if not ENV_NAME.match(name):
            raise ValueError(f"${{{name}}} names no environment variable")
        if self.environ is None:
            return default if has_default else "${" + name + "}"
        value = self.environ.get(name, "")
        if value:
            self.resolved[name] = value
        if value or has_default:
            return value or default
        if name in self.environ:
            return ""
        raise ValueError(f"the environment variable {name} is not set")

    def named(self, text: str, *, secrets: bool = False) -> str:
        """A text in which what came from outside is called by its reference, however it is
        spelled. secrets: only what is a secret."""
        of = secret_values(self.resolved, (), self.called_so) if secrets else self.resolved.values()
        for reference, value in sorted(self.resolved.items(), key=lambda one: -len(one[1])):
            if len(value) > 2 and value in of:
                for form in sorted(spelled(value), key=len, reverse=True):
                    text = text.replace(form, "${" + reference + "}")
        return text

    @property
    def changing(self) -> bool:
        """Whether there is anything that `changed` would look at."""
        return bool(self._folders)

    def changed(self) -> list[str]:
        """Which references stand for something else by now. Asks the vault, whose token is renewed
        first. Raises ValueError for what cannot be looked up."""
        if self._vault is not None:
            self._vault.renew()
        return [
            reference
            for reference, folder in self._folders.items()
            if self._look_up(reference, folder) != self.resolved.get(reference)
        ]

    def _look_up(self, reference: str, folder: Path) -> str:
        scheme, _, rest = reference.partition(":")
        if scheme == "vault":
            return self._in_vault(reference)
        if scheme == "file":
            return self._file(folder / rest, f"the file of ${{{reference}}} cannot be read")
        found = _SECRET.match(rest)
        if found is None:
            raise ValueError(f"${{{reference}}} names no Secret and its key: ${{k8s:name/key}}")
        # By its plain name, through the link that Kubernetes swaps when the Secret changes.
        file = self.root / self.options.kubernetes / found[1] / found[2]
        return self._file(file, f"the Secret of ${{{reference}}} is not mounted in {file.parent}")

    def _file(self, file: Path, problem: str) -> str:
        try:
            text = file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "not readable as text"
            raise ValueError(f"{problem}: {reason}") from e
        self.files.add(file)
        return text

    def _place(self, reference: str) -> re.Match[str]:
        found = _PLACE.match(reference.removeprefix("vault:"))
        if found is None or {".", ".."} & set(found[1].split("/")):
            raise ValueError(
                f"${{{reference}}} names no field of a secret: ${{vault:mount/path#field}}"
            )
        return found

    def _known_vault(self, reference: str) -> VaultOptions:
        if self.options.vault is None:
            raise ValueError(f"there is no vault for ${{{reference}}}: secrets: {{vault: ...}}")
        return self.options.vault

    def _in_vault(self, reference: str) -> str:
        found = self._place(reference)
        options = self._known_vault(reference)
        try:
            if self._vault is None:
                self._vault = session(options, self.root)
            return self._vault.read(found[1], found[2])
        except ValueError as e:
            raise ValueError(f"${{{reference}}}: {e}") from e.__cause__
