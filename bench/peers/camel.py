"""Apache Camel (camel-main, YAML DSL) on platform-http-vertx."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from measure import BENCH, Place
from scenarios import Scenario

from peers.installed import Installed, run

_MAVEN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_SOURCES = ("Gateway.java", *(f"orders/{name}.java" for name in (
    "Order", "PlaceOrder", "PlaceOrderResponse", "package-info")))  # fmt: skip


def _make(folder: Path) -> None:
    files = product.files
    run("mvn", "-q", "-B", "-f", files / "pom.xml", _MAVEN, f"-DoutputDirectory={folder / 'lib'}")
    classes = folder / "classes"
    run("javac", "--release", "17", "-cp", f"{folder / 'lib'}/*", "-d", classes,
        *(files / source for source in _SOURCES))  # fmt: skip
    shutil.copy(files / "orders" / "jaxb.index", classes / "orders")
    shutil.copy(files / "application.properties", classes)


product = Installed(
    "camel",
    ("pom.xml", "application.properties", "orders/jaxb.index", *_SOURCES),
    {"mvn": "maven", "javac": "default-jdk-headless"},
    _make,
)


class Camel:
    """One JVM. Its HTTP client is camel-http: of Camel's it was the fastest on one core."""

    name = "camel"
    kinds: Collection[str] = ("direct", "header", "header-soap", "cbr", "xslt", "soap-as-rest")
    warm_up = 10

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """The serial collector: on one core the others have no core to be concurrent on."""
        path = f"{product.folder / 'classes'}:{product.folder / 'lib'}/*"
        return ["java", "-XX:+UseSerialGC", "-Xms512m", "-Xmx512m", "-cp", path, "Gateway"], {
            "PORT": str(port),
            "BACKEND_PORT": str(place.backend),
            "ROUTES": str(product.files / f"{scenario.kind}.yaml"),
            "STYLESHEET": str(BENCH / "routes" / "xslt.xsl"),
        }

    def version(self) -> str:
        """Of camel-main."""
        return next((product.folder / "lib").glob("camel-main-*.jar")).stem.rpartition("-")[2]

    def missing(self) -> str:
        """How to get it."""
        return product.missing()
