"""node: the SOAP client of its package `soap` behind node's own HTTP server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import orders
from measure import Place
from scenarios import Scenario

from peers.installed import Installed, run


def _make(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(product.files / name, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)


product = Installed(
    "node", ("package.json", "package-lock.json"), {"node": "nodejs", "npm": "npm"}, _make
)


class NodeSoap:
    """SOAP as REST in one process."""

    name = "node-soap"
    kinds: Collection[str] = ("soap-as-rest",)
    warm_up = 3

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """NODE_ENV as for production."""
        return ["node", str(product.files / "soap_as_rest.js")], {
            "NODE_ENV": "production",
            "MODULES": str(product.folder),
            "PORT": str(port),
            "WSDL": str(orders.WSDL),
            "BACKEND": f"http://127.0.0.1:{place.backend}",
        }

    def version(self) -> str:
        """Of the package `soap`."""
        told = json.loads((product.files / "package.json").read_text())
        return str(told["dependencies"]["soap"])

    def missing(self) -> str:
        """How to get it."""
        return product.missing()
