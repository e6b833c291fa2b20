"""SOAP stacks that are not ours, as services and as clients: PHP's ext-soap, spyne, zeep."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

HERE = Path(__file__).parent
PARTNER_WSDL = HERE / "partner.wsdl"
RPC_WSDL = HERE / "rpc.wsdl"


def with_session_header(wsdl: str) -> str:
    """The partner WSDL with a declared SOAP header, Session, for getPartner in SOAP 1.1."""
    element = (
        '<xsd:element name="Session"><xsd:complexType><xsd:sequence>'
        '<xsd:element name="token" type="xsd:string"/>'
        "</xsd:sequence></xsd:complexType></xsd:element></xsd:schema>"
    )
    message = (
        '<wsdl:message name="session"><wsdl:part name="session" element="tns:Session"/>'
        "</wsdl:message><wsdl:portType"
    )
    header = '<wsdl:input><soap:header message="tns:session" part="session" use="literal"/>'
    start = wsdl.index("<wsdl:binding")
    bindings = wsdl[start:].replace("<wsdl:input>", header, 1)
    wsdl = wsdl[:start] + bindings
    return wsdl.replace("</xsd:schema>", element, 1).replace("<wsdl:portType", message, 1)


@functools.cache
def php_missing() -> str:
    """Why PHP's SOAP stack cannot be used here, or ""."""
    php = shutil.which("php")
    if php is None:
        return "php is not installed (Debian: php-cli, php-soap)"
    modules = subprocess.run([php, "-m"], capture_output=True, text=True, check=False).stdout
    return "" if "soap" in modules.split() else "PHP lacks its soap module (Debian: php-soap)"


needs_php = pytest.mark.skipif(bool(php_missing()), reason=php_missing() or "PHP is here")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def php_service(wsdl: Path, folder: Path) -> Iterator[str]:
    """The URL of a service on PHP's ext-soap; `folder/dropped` tells what one-way calls came."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    environment = {**os.environ, "WSDL": str(wsdl), "DROPPED": str(folder / "dropped")}
    with (folder / "php.log").open("wb") as log:
        process = subprocess.Popen(
            ["php", "-S", f"127.0.0.1:{port}", str(HERE / "server.php")],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for_url(url + "up", process)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def wait_for_url(url: str, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # an answer, if not a good one
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the service did not start"
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.02)


def php_call(wsdl: str, operation: str, *arguments: Any, version: str = "1.1") -> Any:
    """Call an operation with PHP's SoapClient: {"answer": ...} or {"fault": ...}."""
    done = subprocess.run(
        ["php", str(HERE / "client.php"), wsdl, version, operation, json.dumps(arguments)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return json.loads(done.stdout)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def wsgi_service(application: Any) -> Iterator[str]:
    """The URL of a WSGI application, served in a thread."""
    server = make_server("127.0.0.1", 0, application, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spyne_application(version: str = "1.1") -> Any:
    """A service on spyne: doc/literal, with a WSDL of its own making at ?wsdl."""
    from spyne import Application, ComplexModel, Decimal, Fault, Integer, ServiceBase, Unicode, rpc
    from spyne.protocol.soap import Soap11, Soap12
    from spyne.server.wsgi import WsgiApplication

    class Line(ComplexModel):
        __namespace__ = "urn:example:invoice"
        text = Unicode
        price = Decimal

    class InvoiceNotFound(Fault):
        __namespace__ = "urn:example:invoice"

        def __init__(self, number: int) -> None:
            super().__init__("Client.InvoiceNotFound", f"no invoice {number}")

    class Invoices(ServiceBase):
        @rpc(Integer, Unicode(max_occurs="unbounded"), _returns=Line.customize(max_occurs=9),
             _throws=InvoiceNotFound)  # fmt: skip
        def lines(ctx: Any, number: int, texts: list[str]) -> list[Any]:  # noqa: N805
            if number == 13:
                raise ValueError("an internal error")
            if number > 99:
                raise InvoiceNotFound(number)
            return [Line(text=t, price="0.10") for t in texts or ()]

    protocol = Soap11 if version == "1.1" else Soap12
    return WsgiApplication(
        Application(
            [Invoices],
            "urn:example:invoice",
            in_protocol=protocol(validator="lxml"),
            out_protocol=protocol(),
        )
    )
