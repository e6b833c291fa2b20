"""What the private servers of this folder share: how they get here, run, and end with us.

Debian's packages are downloaded and checked by apt and unpacked, not installed: no maintainer
script runs, no user is made, nothing outside the project changes. Standard library only, because
this runs before there is a virtual environment.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Self

PROJECT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT / ".tools"

_SPAWNER = ThreadPoolExecutor(1, "servers")
"""Linux ties "dies with its parent" to the thread that started a process, so one thread that lives
as long as this process starts them all."""


class CannotInstall(Exception):
    """There is no way to get a server here; the text says what would help."""


class ServerFailed(Exception):
    """A server ended or did not answer in time; the text has the end of its log."""


# --- getting one ---------------------------------------------------------------------------------


class Apt:
    """apt with the system's package lists, or with lists of our own (see `unpack`)."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = options

    def depends(self, package: str, *, recurse: bool = False) -> set[str]:
        """The packages that `package` depends on."""
        leave = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
        command = ["apt-cache", *self._options, "depends", *(f"--no-{name}" for name in leave)]
        found = _capture([*command, *(["--recurse"] if recurse else []), package])
        return set(re.findall(r"Depends: ([a-z0-9.+-]+)$", found, re.MULTILINE))

    def missing_libraries(self, package: str) -> set[str]:
        """The shared libraries that `package` needs and this machine lacks."""
        command = ["apt-get", *self._options, "-s", "install", "--no-install-recommends", package]
        # "Inst name [old] (new ...)" would be an upgrade: the library that is there will do.
        return set(re.findall(r"^Inst (lib[^ ]+) \(", _capture(command, check=False), re.MULTILINE))

    def download(self, names: set[str], folder: Path) -> None:
        """Download packages into `folder`."""
        subprocess.run(
            ["apt-get", *self._options, "-q", "download", *sorted(names)],
            cwd=folder, env=_env(), check=True, capture_output=True, text=True,
        )  # fmt: skip


def unpack(
    target: Path,
    what: str,
    packages: Callable[[Apt], set[str]],
    complete: Callable[[Path], bool],
    prepare: Callable[[Path], None] = lambda root: None,
) -> None:
    """Unpack Debian's packages into `target` if they are not there yet.

    Safe to call from several processes at once. what: its name, for people. packages: which ones.
    complete: whether a folder holds it all. prepare: makes what was unpacked run where it lies.
    Raises CannotInstall.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise CannotInstall(
            f"{what} is missing and there is no apt-get to download it with: install your "
            "system's package (it need not run) and try again"
        )
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{target.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete(target):
            return
        print(f"Downloading {what} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=TOOLS) as work_name:
            work = Path(work_name)
            debs, root = work / "debs", work / "root"
            debs.mkdir()
            _fetch(packages, debs, work, what)
            for deb in sorted(debs.glob("*.deb")):
                _run(["dpkg", "-x", str(deb), str(root)], cwd=work, why=f"unpack {deb.name}")
            prepare(root)
            if not complete(root):
                raise CannotInstall(f"the packages of {what} do not hold what they should")
            shutil.rmtree(target, ignore_errors=True)
            root.rename(target)


def _fetch(packages: Callable[[Apt], set[str]], debs: Path, work: Path, what: str) -> None:
    try:
        apt = Apt()
        apt.download(packages(apt), debs)
    except subprocess.CalledProcessError:
        # The package lists are empty or stale, as in fresh containers: fetch lists of our own,
        # which needs no rights and leaves the system's as they are.
        lists = _own_package_lists(work)
        _run(["apt-get", *lists, "-q", "update"], cwd=work, why="update the package lists")
        try:
            apt = Apt(lists)
            apt.download(packages(apt), debs)
        except subprocess.CalledProcessError as e:
            raise CannotInstall(f"apt-get cannot download {what}: {_tail(e)}") from e


def _own_package_lists(work: Path) -> list[str]:
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    return [
        f"-oDir::State={work}/state",
        "-oDir::State::status=/var/lib/dpkg/status",
        f"-oDir::Cache={work}/cache",
        "-oAPT::Sandbox::User=" + ("root" if os.geteuid() == 0 else ""),
    ]


def libraries(root: Path) -> Mapping[str, str]:
    """The environment in which what was unpacked into `root` finds its shared libraries."""
    found = [*root.glob("usr/lib/*-linux-*"), *root.glob("lib/*-linux-*")]
    return {"LD_LIBRARY_PATH": ":".join(map(str, found))} if found and root != Path("/") else {}


def _env() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _capture(command: Sequence[str], check: bool = True) -> str:
    done = subprocess.run(command, env=_env(), check=check, capture_output=True, text=True)
    return done.stdout


def _run(command: Sequence[str], cwd: Path, why: str) -> None:
    try:
        subprocess.run(command, cwd=cwd, env=_env(), check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        raise CannotInstall(f"cannot {why}: {_tail(e)}") from e


def _tail(error: subprocess.CalledProcessError) -> str:
    lines = (error.stderr or error.stdout or str(error)).strip().splitlines()
    return "; ".join(lines[-3:])


# --- running one ---------------------------------------------------------------------------------


def spawn(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, however this one dies."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal is for us, we stop it in order
            preexec_fn=_die_with_parent,
        )

    return _SPAWNER.submit(start).result()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def ports(*wanted: int) -> Iterator[list[int]]:
    """Free ports of 127.0.0.1, held for the duration; 0 is any. Raises OSError if one is taken."""
    with ExitStack() as held:
        found = []
        for port in wanted:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            found.append(listener.getsockname()[1])
        yield found


class Up(ABC):
    """What is up from `start` to `close`, or within a `with`."""

    @abstractmethod
    def start(self) -> None:
        """Start it and return when it answers. Raises ServerFailed."""

    @abstractmethod
    def close(self) -> None:
        """End it, and leave nothing that was temporary."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Server(Up):
    """One server. what: what people call it. process: the one that is it. folder: where its log
    is."""

    what = ""
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, with whatever opens it."""

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.folder / "log.txt"

    def wait_ready(self, answers: Callable[[], bool], deadline: float) -> None:
        """Return once it answers. deadline: on the clock of `time.monotonic`. Raises
        ServerFailed."""
        while not answers():
            said = self.log.read_text(errors="replace")[-3000:]
            if not self.running:
                raise ServerFailed(f"{self.what} ended while starting:\n{said}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.what} does not answer:\n{said}")
            time.sleep(0.02)


# --- the command ---------------------------------------------------------------------------------


def command_line(
    what: str,
    install: Callable[[], object],
    make: Callable[[int, Path], Server],
    port: int,
    data: Path | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """`install`, and `run` until Ctrl-C; returns the exit status. make: gets the port and the
    folder of the data. data: that folder, if nothing else is said; None if it keeps none."""
    parser = argparse.ArgumentParser(description=f"A private {what} for tests and first tries.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help=f"put {what} into .tools/ if it is missing")
    run = commands.add_parser("run", help="run a server in the foreground until Ctrl-C")
    run.add_argument(
        "--port", type=int, default=port, help=f"its port ({port}; 0 takes a free one)"
    )
    if data is not None:
        run.add_argument("--data", type=Path, default=data, help="data folder")
    args = parser.parse_args(argv)
    try:
        if args.command == "install":
            print(f"{what} is in {install()}")
            return 0
        return _foreground(make(args.port, Path(getattr(args, "data", "")).resolve()))
    except (CannotInstall, ServerFailed) as e:
        print(f"{what}: {e}", file=sys.stderr)
        return 1


def _foreground(server: Server) -> int:
    asked = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: asked.set())
    with server:
        print(f"{server.what} is ready: {server.url} (Ctrl-C stops it)", flush=True)
        while server.running and not asked.wait(0.2):
            pass
        ended = not server.running
    if ended:
        print(f"{server.what}: the server ended by itself", file=sys.stderr)
    return int(ended)
