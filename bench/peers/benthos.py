"""Benthos, built from its MIT-licensed module with the components that the scenarios need."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from measure import Place
from scenarios import Scenario

from peers.installed import Installed, run


def _make(folder: Path) -> None:
    run("go", "build", "-mod=readonly", "-trimpath", "-o", folder / "benthos", ".",
        cwd=product.files)  # fmt: skip


product = Installed("benthos", ("go.mod", "go.sum", "main.go"), {"go": "golang-go"}, _make)


class Benthos:
    """One process of one processor, without metrics."""

    name = "benthos"
    kinds: Collection[str] = ("direct", "header", "amqp-to-http", "http-to-amqp")
    warm_up = 1

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """GOMAXPROCS as the core that it has: Go counts the machine's when it starts."""
        config = product.files / f"{scenario.kind}.yaml"
        return [str(product.folder / "benthos"), "-c", str(config)], {
            "GOMAXPROCS": "1",
            "PORT": str(port),
            "BACKEND": f"http://127.0.0.1:{place.backend}",
            "AMQP_URL": place.broker,
        }

    def version(self) -> str:
        """Of its module."""
        found = re.search(r"benthos/v4 v(\S+)", (product.files / "go.mod").read_text())
        return found[1] if found else "?"

    def missing(self) -> str:
        """How to get it."""
        return product.missing()
