"""Set up the project's environment with nothing but Python: fetch uv if it is missing, sync .venv.

Standard library only: it runs on a fresh Debian or Ubuntu, where python3 has neither pip nor venv.
When nothing changed since the last time it returns in a few milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
STAMP = ROOT / ".venv" / ".synced"

UV = "0.13.9"
# The wheels of that version for Linux and macOS, by SHA-256.
WHEELS = {
    "linux-x86_64": (
        f"uv-{UV}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    "linux-aarch64": (
        f"uv-{UV}-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    "darwin-x86_64": (
        f"uv-{UV}-py3-none-macosx_10_12_x86_64.whl",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
    "darwin-arm64": (
        f"uv-{UV}-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}


def main() -> None:
    """Make .venv match uv.lock."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the user's python3 may well be older
        fail(f"Python 3.11 or newer is needed, this is {platform.python_version()}")
    stamp = wanted()
    if STAMP.exists() and STAMP.read_text() == stamp:
        return
    uv = find_uv() or fetch_uv()
    say("installing the locked dependencies into .venv")
    done = subprocess.run(
        [uv, "sync", "--locked", "--quiet", "--no-python-downloads", "--python", sys.executable],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"},
        check=False,
    )
    if done.returncode:
        fail("uv could not install the dependencies; what it said stands above")
    STAMP.write_text(stamp)


def wanted() -> str:
    """What .venv depends on, in one hash."""
    digest = hashlib.sha256(f"{sys.version}{ROOT}".encode())
    for name in ("uv.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def find_uv() -> str | None:
    """A uv that is there already and new enough to read uv.lock."""
    for candidate in (TOOLS / "uv", shutil.which("uv")):
        if candidate is None or not Path(candidate).exists():
            continue
        told = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        version = re.match(r"uv (\d+)\.(\d+)", told.stdout)
        if version and (int(version[1]), int(version[2])) >= (0, 9):
            return str(candidate)
    return None


def fetch_uv() -> str:
    """Fetch the pinned wheel, check it, and take the program out of it."""
    machine = f"{sys.platform}-{platform.machine().lower().replace('amd64', 'x86_64')}"
    if machine not in WHEELS:
        fail(f"no uv is known for {machine}: install uv yourself, then run this again")
    name, sha256 = WHEELS[machine]
    say(f"fetching uv {UV}")
    try:
        wheel = download(locate(name))
    except (urllib.error.URLError, OSError) as e:
        fail(f"the package index cannot be reached ({e}): install uv yourself, then run this again")
    if hashlib.sha256(wheel).hexdigest() != sha256:
        fail(f"{name} is not what was expected: its SHA-256 differs")
    TOOLS.mkdir(exist_ok=True)
    packed = TOOLS / "uv.whl"
    packed.write_bytes(wheel)
    program = TOOLS / "uv"
    with zipfile.ZipFile(packed) as archive:
        inside = next(n for n in archive.namelist() if n.endswith("/uv"))
        program.write_bytes(archive.read(inside))
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    packed.unlink()
    return str(program)


def locate(name: str) -> str:
    """The URL of a file of uv, by the index's simple API (PEP 503 and 691)."""
    index = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX")
    page = (index or "https://pypi.org/simple").rstrip("/") + "/uv/"
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    request = urllib.request.Request(page, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
        kind = answer.headers.get_content_type()
    if kind.endswith("json"):
        found = [file["url"] for file in json.loads(text)["files"] if file["filename"] == name]
    else:
        found = [url for url in re.findall(r'href="([^"#]+)', text) if url.endswith("/" + name)]
    if not found:
        fail(f"the package index has no {name}")
    return urllib.parse.urljoin(page, found[0])


def download(url: str) -> bytes:
    """All of a file."""
    with urllib.request.urlopen(url, timeout=120) as answer:
        content: bytes = answer.read()
    return content


def say(what: str) -> None:
    """Tell people what takes the time."""
    print(f"set-up: {what}", file=sys.stderr, flush=True)


def fail(why: str) -> None:
    """End with the reason."""
    raise SystemExit(f"set-up: {why}")


if __name__ == "__main__":
    main()
