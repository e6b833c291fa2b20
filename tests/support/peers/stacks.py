"""SOAP stacks from outside of Python, each as client and as server of the interop services: PHP's
ext-soap, node's `soap`, in Java JAX-WS RI, and for rpc/encoded Axis 1 and Perl's SOAP::Lite.

What they need beyond themselves is fetched once by their own package managers, at the versions that
lie here (node/package-lock.json, java/pom.xml), into .tools/peers. `python -m support.peers.stacks`
does that and tells what is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.peers import HERE, free_port, php_missing, wait_for_url

CACHE = HERE.parents[2] / ".tools" / "peers"
LITERAL = ("orders", "prices", "quotes")
ENCODED = "staff"

_MAVEN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_JAXWS_STUBS = (
    "com.sun.tools.ws.WsImport", "-quiet", "-Xnocompile", "-XadditionalHeaders", "-extension",
    "-s", "sources",
)  # fmt: skip
_AXIS_STUBS = ("org.apache.axis.wsdl.WSDL2Java", "-s", "-S", "false", "-o", "sources")
_JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8")


class Missing(Exception):
    """Why a stack cannot be used here."""


@dataclass(frozen=True)
class Stack:
    """How to run a stack: `prepare` fetches and compiles, and returns the environment to run in;
    then follow the commands, a server's with its PORT, and the path of its services.

    refers: whether it writes what is in several places of a message once, and refers to it.
    """

    name: str
    missing: Callable[[], str]
    prepare: Callable[[], dict[str, str]]
    client: Sequence[str]
    server: Sequence[str]
    path: str
    services: Sequence[str] = LITERAL
    refers: bool = False

    def account(self, service: str, wsdl: str, version: str, *more: str) -> dict[str, Any]:
        """What its client tells of a hosted service; `more` are arguments of this client alone.
        Raises Missing."""
        done = subprocess.run(
            [*self.client, service, wsdl, version, *more],
            env={**os.environ, **self.prepare()},
            capture_output=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextlib.contextmanager
    def serving(self, folder: Path) -> Iterator[str]:
        """The base URL of its server; one-way calls leave their trace in `folder`/notes. Raises
        Missing."""
        environment = {**os.environ, **self.prepare(), "NOTES": str(folder / "notes")}
        port = free_port()
        command = [one.replace("PORT", str(port)) for one in self.server]
        with (folder / f"{self.name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                wait_for_url(f"http://127.0.0.1:{port}/up", process, seconds=60)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(10)

    def address(self, base: str, service: str, version: str) -> str:
        """Where its server has a service."""
        return base + self.path.format(service=service, version=version.replace(".", ""))


# --- what they need ------------------------------------------------------------------------------


def _lacks(debian: str, *tools: str) -> str:
    absent = ", ".join(tool for tool in tools if shutil.which(tool) is None)
    return f"not installed: {absent} (Debian: {debian})" if absent else ""


def node_missing() -> str:
    """Why node cannot be used here, or ""."""
    return _lacks("nodejs, npm", "node", "npm")


def java_missing() -> str:
    """Why Java cannot be used here, or ""."""
    return _lacks("default-jdk-headless, maven", "java", "javac", "mvn")


def perl_missing() -> str:
    """Why Perl cannot be used here, or ""."""
    return _lacks("libsoap-lite-perl", "perl")


def _check_version(tool: str, flag: str, oldest: int) -> None:
    """Raises Missing if a tool is older; the first number that it tells is its version."""
    said = subprocess.run([tool, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+", said.stdout + said.stderr)
    if found is not None and int(found[0]) < oldest:
        raise Missing(f"{tool} {found[0]} is too old, {oldest} is needed")


def _once(prepare: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
    """Does it once in a process; what could not be had the first time is not tried again."""

    @functools.cache
    def outcome() -> dict[str, str] | Missing:
        try:
            return prepare()
        except Missing as e:
            return e

    def prepared() -> dict[str, str]:
        found = outcome()
        if isinstance(found, Missing):
            raise found
        return found

    return prepared


def _made(name: str, sources: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """A folder in the cache that `make` fills once for the same sources, whoever comes first."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _fetch(what: str, *command: str, cwd: Path) -> None:
    """Run a package manager. Raises Missing with the first error that it told."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise Missing(f"{what} could not be fetched in time") from e
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()
        said = next((line for line in lines if "error" in line.lower()), "no reason given")
        raise Missing(f"{what} could not be fetched: {said[:200]}")


@_once
def _prepare_node() -> dict[str, str]:
    _check_version("node", "--version", 18)
    files = [HERE / "node" / name for name in ("package.json", "package-lock.json")]

    def make(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
        _fetch("node's soap", "npm", "ci", *flags, cwd=folder)

    return {"NODE_PATH": str(_made("node", files, make) / "node_modules")}


@_once
def _prepare_java() -> dict[str, str]:
    _check_version("javac", "-version", 17)
    pom = HERE / "java" / "pom.xml"
    programs = sorted((HERE / "java").glob("*.java"))
    wsdls = [HERE / f"{service}.wsdl" for service in (*LITERAL, ENCODED)]

    def fetch(folder: Path) -> None:
        _fetch(
            "JAX-WS", "mvn", "-B", "-q", "-f", str(pom), _MAVEN, f"-DoutputDirectory={folder}",
            cwd=folder,
        )  # fmt: skip

    jars = _made("jars", [pom], fetch)

    def run(folder: Path, *command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def build(folder: Path) -> None:
        sources = folder / "sources"
        sources.mkdir()
        for wsdl in wsdls:
            shutil.copy(wsdl, folder)  # the server reads it from its class path
            generator = _AXIS_STUBS if wsdl.stem == ENCODED else _JAXWS_STUBS
            package = ("-p", f"peers.{wsdl.stem}")
            run(folder, *_JAVA, "-cp", f"{jars}/*", *generator, *package, wsdl.name)
        generated = [str(file) for file in sources.rglob("*.java")]
        flags = ("-nowarn", "-encoding", "UTF-8", "-cp", f"{jars}/*", "-d", ".")
        run(folder, "javac", *flags, *generated, *map(str, programs))

    classes = _made("java", [pom, *programs, *wsdls], build)
    return {"CLASSPATH": f"{classes}:{classes}/sources:{jars}/*"}


@_once
def _prepare_perl() -> dict[str, str]:
    modules = ("-MSOAP::Lite", "-MHTTP::Daemon", "-MJSON::PP")
    if subprocess.run(["perl", *modules, "-e", "1"], capture_output=True, check=False).returncode:
        raise Missing("Perl lacks SOAP::Lite (Debian: libsoap-lite-perl)")
    return {}


PHP = Stack(
    "php",
    php_missing,
    dict,
    client=("php", str(HERE / "php" / "client.php")),
    server=("php", "-S", "127.0.0.1:PORT", str(HERE / "php" / "server.php")),
    path="/{service}",
    services=(*LITERAL, ENCODED),
    refers=True,
)
NODE = Stack(
    "node",
    node_missing,
    _prepare_node,
    client=("node", str(HERE / "node" / "client.js")),
    server=("node", str(HERE / "node" / "server.js"), "PORT"),
    path="/{service}/{version}",
)
JAVA = Stack(
    "java",
    java_missing,
    _prepare_java,
    client=(*_JAVA, "Client"),
    server=(*_JAVA, "Server", "PORT"),
    path="/{service}/{version}",
)
AXIS = Stack(
    "axis",
    java_missing,
    _prepare_java,
    client=(*_JAVA, "AxisClient"),
    server=(*_JAVA, "AxisServer", "PORT"),
    path="/axis/services/Staff",
    services=(ENCODED,),
    refers=True,
)
PERL = Stack(
    "perl",
    perl_missing,
    _prepare_perl,
    client=("perl", str(HERE / "perl" / "client.pl")),
    server=("perl", str(HERE / "perl" / "server.pl"), "PORT"),
    path="/",
    services=(ENCODED,),
)
STACKS = (PHP, NODE, JAVA, AXIS, PERL)


def main() -> int:
    """Fetch and compile what the stacks need; say what cannot be tested."""
    status = 0
    for stack in STACKS:
        try:
            if stack.missing():
                raise Missing(stack.missing())
            stack.prepare()
            print(f"{stack.name}: ready")
        except Missing as e:
            print(f"WARNING: {e}: the tests that need it are SKIPPED", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
