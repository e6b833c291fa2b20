#!/usr/bin/env python3
"""Set the project up in .venv/ at the versions of uv.lock: what `make` runs before all else.

Needs Python 3.11 and nothing besides: no pip, no venv module, no rights beyond this folder. uv is
taken from PATH if it is new enough; else its wheel is fetched from the package index, held against
the hash below and unpacked into .tools/. When nothing changed since the last time, this ends at
once and without a word.

Settings it heeds: UV_DEFAULT_INDEX or PIP_INDEX_URL (another index), HTTPS_PROXY, SSL_CERT_FILE.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
TOOLS = PROJECT / ".tools"
STAMP = VENV / "esb-setup"

PYPI = "https://pypi.org/simple"
UV = "0.13.9"
WHEELS = {
    "Linux-x86_64-glibc": (
        "manylinux_2_17_x86_64.manylinux2014_x86_64",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    "Linux-x86_64-musl": (
        "musllinux_1_1_x86_64",
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    ),
    "Linux-aarch64-glibc": (
        "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    "Linux-aarch64-musl": (
        "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    "Darwin-x86_64": (
        "macosx_10_12_x86_64",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
    "Darwin-arm64": (
        "macosx_11_0_arm64",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}
"""Platform tag and SHA-256 of uv's wheel, by machine."""


class SetupFailed(Exception):
    """The text says what is wrong and what would help."""


def main() -> int:
    """Set up if something changed; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the user's python3 may well be older
        version = platform.python_version()
        print(f"setup: Python 3.11 or newer is needed, this is {version}", file=sys.stderr)
        return 1
    wanted = _state()
    if _read(STAMP) == wanted and (VENV / "bin" / "python").exists():
        return 0
    try:
        sync(find_uv() or fetch_uv())
    except SetupFailed as e:
        print(f"setup: {e}", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    return 0


def _state() -> str:
    """Changes when .venv is to be made anew: locked versions, interpreter, place of the project."""
    digest = hashlib.sha256(f"{sys.version} {PROJECT}".encode())
    for name in ("uv.lock", "pyproject.toml", "tools/setup.py"):
        digest.update((PROJECT / name).read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# --- uv ------------------------------------------------------------------------------------------


def find_uv() -> Path | None:
    """A uv that reads this lock file: the one unpacked here, or one on PATH as new as ours."""
    unpacked = _unpacked()
    if unpacked.exists():
        return unpacked
    on_path = shutil.which("uv")
    if on_path is None:
        return None
    answer = subprocess.run([on_path, "--version"], capture_output=True, text=True)
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", answer.stdout)
    wanted = tuple(map(int, UV.split(".")))
    if answer.returncode or not found or tuple(map(int, found.groups())) < wanted:
        return None
    return Path(on_path)


def fetch_uv() -> Path:
    """Download uv's wheel and unpack its program. Raises SetupFailed."""
    tag, digest = _wheel()
    name = f"uv-{UV}-py3-none-{tag}.whl"
    started = time.monotonic()
    wheel = _download(_url_of(name))
    if hashlib.sha256(wheel).hexdigest() != digest:
        raise SetupFailed(f"{name} is not the file it should be (its SHA-256 differs)")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        program = archive.read(f"uv-{UV}.data/scripts/uv")
    target = _unpacked()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Complete or not there at all, also when two do this at the same time.
    partial = target.with_name(f"uv.{os.getpid()}")
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.replace(target)
    _say(f"fetched uv {UV} into {target.parent.relative_to(PROJECT)}/", started)
    return target


def _unpacked() -> Path:
    return TOOLS / f"uv-{UV}" / "uv"


def _wheel() -> tuple[str, str]:
    machine = f"{platform.system()}-{platform.machine()}"
    if platform.system() == "Linux":
        machine += "-glibc" if platform.libc_ver()[0] == "glibc" else "-musl"
    if machine not in WHEELS:
        raise SetupFailed(
            f"no uv is known here for {machine}: install uv {UV} or newer and put it on PATH"
        )
    return WHEELS[machine]


def _url_of(name: str) -> str:
    """Where the index has a file of uv (PEP 503, PEP 691)."""
    project = f"{_index()}/uv/"
    page = _download(project, "application/vnd.pypi.simple.v1+json, text/html;q=0.5").decode()
    if page.lstrip().startswith("{"):
        links = [file["url"] for file in json.loads(page)["files"] if file["filename"] == name]
    else:  # an index that only knows the older form
        links = re.findall(rf'href="([^"#]*/{re.escape(name)})[#"]', page)
    if not links:
        raise SetupFailed(f"{project} has no {name}")
    return urllib.parse.urljoin(project, links[0])


def _index() -> str:
    for setting in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(setting):
            return os.environ[setting].rstrip("/")
    return PYPI


def _download(url: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(url, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError, ValueError) as e:
        raise SetupFailed(
            f"{url} cannot be fetched: {getattr(e, 'reason', e)}. Behind a proxy set HTTPS_PROXY, "
            "for another index PIP_INDEX_URL; or put a uv of your own on PATH"
        ) from e


# --- the environment -----------------------------------------------------------------------------


def sync(uv: Path, venv: Path = VENV, python: str = sys.executable) -> None:
    """Make .venv, or another environment, what uv.lock says. Raises SetupFailed."""
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv), "UV_PYTHON": python}
    environment.pop("VIRTUAL_ENV", None)  # another project's, active in this shell
    if "UV_CACHE_DIR" not in environment and not _home_is_writable():
        environment["UV_CACHE_DIR"] = str(TOOLS / "uv-cache")
    name = venv.relative_to(PROJECT)
    _say(f"installing the locked packages into {name}/ ...")
    started = time.monotonic()
    for arguments in _from_pypi() if _index() == PYPI else _from_elsewhere(venv, python):
        done = subprocess.run([str(uv), "--quiet", *arguments], cwd=PROJECT, env=environment)
        if done.returncode:
            raise SetupFailed(f"'uv {' '.join(arguments[:2])}' failed, it says why above")
    _say(f"the packages are in {name}/", started)


def _from_pypi() -> list[list[str]]:
    return [["sync", "--locked"]]


def _from_elsewhere(venv: Path, python: str) -> list[list[str]]:
    """The same versions and hashes from another index: uv.lock itself names PyPI's addresses."""
    TOOLS.mkdir(exist_ok=True)
    packages = str(TOOLS / "requirements.txt")
    into = ["--python", str(venv), "--default-index", _index()]
    return [
        ["export", "--frozen", "--no-emit-project", "--output-file", packages],
        ["venv", "--allow-existing", "--python", python, str(venv)],
        ["pip", "sync", "--require-hashes", *into, packages],
        ["pip", "install", "--no-deps", *into, "--editable", "."],
    ]


def locked(group: str) -> Path:
    """The folder in .tools/ with the packages of a dependency group, at the versions of uv.lock,
    for those that nothing in .venv needs. Made when missing. Raises SetupFailed."""
    uv, wanted = find_uv() or fetch_uv(), TOOLS / f"{group}.{os.getpid()}.txt"
    only = ["--only-group", group, "--frozen", "--no-emit-project", "--no-header", "--quiet"]
    export = [str(uv), "export", *only, "--output-file", str(wanted)]
    try:
        subprocess.run(export, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
        folder = TOOLS / f"{group}-{digest}"
        # Complete or not there at all, also when two do this at the same time.
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        if not folder.exists():
            into = ["--target", str(part), "--python", sys.executable, "--default-index", _index()]
            what = ["--require-hashes", "--quiet", "--requirement", str(wanted)]
            try:
                subprocess.run([str(uv), "pip", "install", *into, *what], check=True)
                with contextlib.suppress(OSError):
                    part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return folder
    except (subprocess.CalledProcessError, OSError) as e:
        raise SetupFailed(f"the packages of '{group}' cannot be had: {e}") from e
    finally:
        wanted.unlink(missing_ok=True)


def _home_is_writable() -> bool:
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return os.access(cache if cache.exists() else home, os.W_OK)


def _say(text: str, started: float | None = None) -> None:
    took = f" ({time.monotonic() - started:.1f} s)" if started is not None else ""
    print(f"setup: {text}{took}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
