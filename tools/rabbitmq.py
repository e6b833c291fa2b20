#!/usr/bin/env python3
"""A private RabbitMQ: for tests and for trying the bus, as root or not, never as a system service.

    python3 tools/rabbitmq.py install             unpack Debian's packages into .tools/rabbitmq/
    python3 tools/rabbitmq.py run [--port 5672]   run one in the foreground, data in .rabbitmq/

The packages are downloaded and checked by apt and unpacked, not installed: no maintainer script
runs, no user is made, nothing outside the project changes. Standard library only, because this
runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from servers import (
    PROJECT,
    TOOLS,
    Apt,
    CannotInstall,
    Server,
    ServerFailed,
    Up,
    command_line,
    libraries,
    ports,
    spawn,
    unpack,
)

UNPACKED = TOOLS / "rabbitmq"
PACKAGE = "rabbitmq-server"
START_TIMEOUT = 90.0
_ERLANG = "usr/lib/erlang"
STOP_TIMEOUT = 30.0


# --- getting it ----------------------------------------------------------------------------------


def install() -> Path:
    """The root folder that holds `usr/lib/rabbitmq` and `usr/lib/erlang`, unpacked when missing.

    Quick when it is there; safe to call from several processes at once. Raises CannotInstall.
    """
    if _complete(UNPACKED):
        return UNPACKED
    if _complete(Path("/")):
        return Path("/")
    unpack(UNPACKED, "RabbitMQ and Erlang (35 MB)", _packages, _complete, prepare=_make_relocatable)
    return UNPACKED


def _complete(root: Path) -> bool:
    return (root / "usr/lib/rabbitmq/bin/rabbitmq-server").exists() and (
        root / "usr/lib/erlang/bin/erl"
    ).exists()


def _packages(apt: Apt) -> set[str]:
    erlang = {name for name in apt.depends(PACKAGE, recurse=True) if name.startswith("erlang-")}
    return {PACKAGE} | erlang | apt.missing_libraries(PACKAGE)


def _make_relocatable(root: Path) -> None:
    """Debian's erl knows one place only; let it find the folder it lies in."""
    erl = root / "usr/lib/erlang/bin/erl"
    here = 'ROOTDIR="$(dirname "$(dirname "$(readlink -f "$0")")")"'
    text, count = re.subn(
        r"^(\s*)ROOTDIR=/usr/lib/erlang$", rf"\1{here}", erl.read_text(), flags=re.M
    )
    if not count:
        raise CannotInstall(f"{erl.name} of this Erlang package is not written as expected")
    erl.write_text(text)


# --- running it ----------------------------------------------------------------------------------


class Broker(Server):
    """One RabbitMQ node on 127.0.0.1 with its own data folder, cookie, ports and epmd.

    folder: where its data lies; a temporary one, removed by `close`, if None.
    port: the AMQP port; a free one if 0. It stays the same over restarts.
    config: more lines for rabbitmq.conf.
    epmd: the port of somebody else's epmd, which nodes of a cluster find each other by.

    The node dies with the process that made it, so that a killed test run leaves nothing behind.
    """

    what = "RabbitMQ"

    def __init__(
        self, folder: Path | None = None, port: int = 0, config: str = "", *, epmd: int = 0
    ) -> None:
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wanted_port = port
        self._config = config
        self._root = install()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._others_epmd = epmd
        self.port, self._dist_port, self._epmd_port = port, 0, 0

    @property
    def url(self) -> str:
        """Where it listens, with its default user."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def name(self) -> str:
        """How other nodes call it; from its start on."""
        return f"esb{self._dist_port}@localhost"

    def start(self) -> None:
        """Start the node and return when it takes AMQP connections. Raises ServerFailed."""
        if self.running:
            return
        first = self._dist_port == 0
        for attempt in range(3):
            if first:
                self.port, self._dist_port, self._epmd_port = _free_ports(self._wanted_port)
                self._epmd_port = self._others_epmd or self._epmd_port
            self._launch()
            try:
                self.wait_ready(lambda: speaks_amqp(self.port), time.monotonic() + START_TIMEOUT)
                return
            except ServerFailed as e:
                self.kill()
                # Somebody else may have taken a port between our choice and its use.
                taken = "eaddrinuse" in str(e) or "already in use" in str(e)
                if not (first and taken and attempt < 2):
                    raise

    def stop(self) -> None:
        """Stop cleanly (SIGTERM) and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a crash does."""
        self._end(signal.SIGKILL)

    def restart(self, *, hard: bool = False) -> None:
        """Stop or kill the node and start it again on the same data and ports."""
        self.kill() if hard else self.stop()
        self.start()

    def close(self) -> None:
        """Stop if running and remove the data folder if it was a temporary one."""
        self.kill() if self._temporary else self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def ctl(self, *args: str) -> str:
        """Run rabbitmqctl (a second or two) and return what it prints."""
        command = [str(self._scripts / "rabbitmqctl"), "--node", self.name, *args]
        done = subprocess.run(
            command, cwd=self._scripts, env=self._environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise ServerFailed(f"rabbitmqctl {args[0]}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def wait(self) -> int:
        """Wait for the node to end; its exit status."""
        assert self.process is not None
        return self.process.wait()

    def _launch(self) -> None:
        config = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "log.console = true",
            "log.console.level = warning",
            "disk_free_limit.absolute = 50MB",
            "vm_memory_high_watermark.absolute = 512MB",
            self._config,
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join(config) + "\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
        with self.log.open("ab") as log:
            if not self._others_epmd:
                self._epmd = _start_epmd(self._root, self._epmd_port, log)
            # In the folder of its scripts, so that a space in the path cannot hurt them.
            self.process = self._spawn(["./rabbitmq-server"], log)

    def _spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return spawn(command, cwd=self._scripts, env=self._environment(), log=log)

    @property
    def _scripts(self) -> Path:
        return (self._root / "usr/lib/rabbitmq/bin/rabbitmq-server").resolve().parent

    @property
    def _erlang(self) -> Path:
        return self._root / _ERLANG

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": f"{self._erlang}/bin:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": folder,
            "RUNNING_UNDER_SYSTEMD": "true",  # become the node instead of a shell around it
            "RABBITMQ_SCRIPTS_DIR": ".",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_GENERATED_CONFIG_DIR": folder,
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "+S 2:2 +sbwt none",
            **libraries(self._root),
        }

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            _end_group(self.process, how)
            self.process = None
        if self._epmd is not None:
            _end_group(self._epmd, signal.SIGKILL)
            self._epmd = None


def _end_group(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Signal a process, then make sure nothing of its process group (its port programs) is left."""
    if process.poll() is None and how != signal.SIGKILL:
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start_epmd(root: Path, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Where nodes tell their ports. Erlang would start one that outlives them; with ours there it
    uses that."""
    command = [str(root / _ERLANG / "bin/epmd"), "-port", str(port), "-address", "127.0.0.1"]
    epmd = spawn(command, cwd=root, env={"PATH": "/usr/bin:/bin", **libraries(root)}, log=log)
    _wait_connect(port, epmd)
    return epmd


def _free_ports(wanted: int) -> tuple[int, int, int]:
    try:
        with ports(wanted, 0, 0) as (amqp, distribution, epmd):
            return amqp, distribution, epmd
    except OSError as e:
        raise ServerFailed(f"port {wanted} on 127.0.0.1 is taken ({e.strerror})") from e


def _wait_connect(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed("epmd does not start: its port may be already in use") from None
            time.sleep(0.02)


def speaks_amqp(port: int) -> bool:
    """Whether a broker answers the protocol header with Connection.Start (AMQP 0-9-1, 4.2.2)."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


# --- a cluster ------------------------------------------------------------------------------------


class Cluster(Up):
    """RabbitMQ nodes that are one broker: `nodes` may be stopped, killed and started one by one.

    config: more lines for the rabbitmq.conf of each. Three nodes take some 10 s and 400 MB.
    """

    def __init__(self, size: int = 3, config: str = "") -> None:
        self.nodes: list[Broker] = []
        self._size = size
        self._config = f"{config}\ncluster_partition_handling = pause_minority"
        self._folder = Path(tempfile.mkdtemp(prefix="rabbitmq-cluster-"))
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def urls(self) -> list[str]:
        """Where its nodes listen."""
        return [node.url for node in self.nodes]

    def settle(self, timeout: float = 60.0) -> None:
        """Return when every node runs and each quorum queue could lose any of them (some seconds).
        Raises ServerFailed if that does not come."""
        for node in self.nodes:
            node.start()
        deadline = time.monotonic() + timeout
        all_there = (
            f"length(rabbit_nodes:all_running()) == {self._size} andalso"
            " rabbit_upgrade_preparation:await_online_quorum_plus_one(10000)."
        )
        while self.nodes[0].ctl("eval", all_there).strip() != "true":
            if time.monotonic() > deadline:
                raise ServerFailed(f"the {self._size} nodes do not find together")

    def close(self) -> None:
        """Kill the nodes and remove their data."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            _end_group(self._epmd, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        with ports(0) as (epmd,):
            pass
        with (self._folder / "epmd.txt").open("ab") as log:
            self._epmd = _start_epmd(install(), epmd, log)
        cookie = secrets.token_hex(16)
        for number in range(self._size):
            config = self._config
            if self.nodes:
                config += (
                    "\ncluster_formation.peer_discovery_backend = classic_config"
                    f"\ncluster_formation.classic_config.nodes.1 = {self.nodes[0].name}"
                )
            node = Broker(self._folder / str(number), config=config, epmd=epmd)
            (node.folder / ".erlang.cookie").touch(mode=0o600)
            (node.folder / ".erlang.cookie").write_text(cookie)
            self.nodes.append(node)
            if number == 0:
                node.start()  # the others find it by its name
        with ThreadPoolExecutor(self._size) as starting:
            list(starting.map(Broker.start, self.nodes[1:]))


# --- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    make = lambda port, data: Broker(data, port)  # noqa: E731
    return command_line("RabbitMQ", install, make, 5672, PROJECT / ".rabbitmq", argv)


if __name__ == "__main__":
    sys.exit(main())
