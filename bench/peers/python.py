"""What a Python developer would write: zeep with FastAPI, aio-pika with aiohttp."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

import interpreter
import orders
from measure import Place
from scenarios import Scenario

from peers.installed import CannotFetch, Installed, run

_TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _make(folder: Path) -> None:
    """An environment of its own, with the interpreter that the bus is measured under."""
    if str(_TOOLS) not in sys.path:
        sys.path.insert(0, str(_TOOLS))
    import setup

    try:
        uv = setup.find_uv() or setup.fetch_uv()
    except setup.SetupFailed as e:
        raise CannotFetch(str(e)) from e
    place = folder / "venv"
    # Relocatable, since its folder is renamed once it is whole.
    run(uv, "venv", "-q", "--relocatable", "--python", interpreter.fastest(), place)
    run(uv, "pip", "install", "-q", "--python", place / "bin" / "python", "--compile-bytecode",
        "-r", product.files / "requirements.txt")  # fmt: skip


product = Installed("python", ("requirements.txt",), {}, _make)


def _version(package: str) -> str:
    pins = (product.files / "requirements.txt").read_text()
    found = re.search(rf"^{re.escape(package)}==(\S+)", pins, re.M)
    return found[1] if found else "?"


class ZeepFastApi:
    """SOAP as REST: zeep's Client in the thread pool of FastAPI, on uvicorn[standard]."""

    name = "zeep+fastapi"
    kinds: Collection[str] = ("soap-as-rest",)
    warm_up = 1

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """One worker without an access log."""
        python = str(product.folder / "venv" / "bin" / "python")
        serve = ["-m", "uvicorn", "--app-dir", str(product.files), "soap_as_rest:app"]
        how = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        return [python, *serve, *how], {
            "WSDL": str(orders.WSDL),
            "BACKEND": f"http://127.0.0.1:{place.backend}",
        }

    def version(self) -> str:
        """Of zeep and FastAPI."""
        return f"{_version('zeep')}+{_version('fastapi')}"

    def missing(self) -> str:
        """How to get it."""
        return product.missing()


class AioPika:
    """AMQP to HTTP and back with aio-pika and aiohttp on uvloop."""

    name = "aio-pika+aiohttp"
    kinds: Collection[str] = ("amqp-to-http", "http-to-amqp")
    warm_up = 1

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """The half that the scenario needs."""
        python = str(product.folder / "venv" / "bin" / "python")
        half = "consume" if scenario.kind == "amqp-to-http" else "publish"
        return [python, str(product.files / "amqp.py"), half], {
            "PORT": str(port),
            "AMQP_URL": place.broker,
            "BACKEND": f"http://127.0.0.1:{place.backend}",
        }

    def version(self) -> str:
        """Of aio-pika and aiohttp."""
        return f"{_version('aio-pika')}+{_version('aiohttp')}"

    def missing(self) -> str:
        """How to get it."""
        return product.missing()
