"""`fetch`: a WSDL with all that it imports, from a real HTTP server into a folder that loads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from esb_soap import fetch as module
from esb_soap.fetch import Brought, NotFetched, fetch
from esb_soap.wsdl import load_wsdl

WSDL = """\
<definitions name="Shop" targetNamespace="urn:t" xmlns="http://schemas.xmlsoap.org/wsdl/"
             xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
             xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:t="urn:t">
  <types><xs:schema targetNamespace="urn:t">{}</xs:schema></types>
  <message name="it"><part name="it" element="t:it"/></message>
  <portType name="Shop"><operation name="buy"><input message="t:it"/></operation></portType>
  <binding name="Shop" type="t:Shop">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/><operation name="buy"/>
  </binding>
  <service name="Shop"><port name="Shop" binding="t:Shop"/></service>
</definitions>"""
SCHEMA = '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:t">{}\
</xs:schema>'
IT = '<xs:element name="it" type="xs:string"/>'


def include(location: str) -> str:
    return f'<xs:include schemaLocation="{location}"/>'


class Web(ThreadingHTTPServer):
    """Serves `pages` by path and query: a text, a status or (status, headers, text)."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        self.credentials: list[tuple[str, str | None]] = []
        self.held = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def elsewhere(self) -> str:
        """The same server as another host."""
        return f"http://localhost:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        host = str(self.headers["Host"]).partition(":")[0]
        self.server.credentials.append((host, self.headers.get("Authorization")))
        page = self.server.pages.get(self.path, 404)
        if page == "hold":
            self.server.held.wait(10)
            page = 500
        status, headers, text = (
            page if isinstance(page, tuple) else (200, {}, page) if isinstance(page, str)
            else (page, {}, "")
        )  # fmt: skip
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        content = text.encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.held.set()
        server.shutdown()
        thread.join()


def loads(brought: Brought, folder: Path) -> list[str]:
    """What it consists of when it is loaded from files."""
    brought.write(folder)
    wsdl = load_wsdl(folder / brought.main, root=folder)
    assert not wsdl.documents.missing
    assert not wsdl.skipped
    return [path.name for path in wsdl.files]


class TestWhatIsBrought:
    async def test_one_file(self, web: Web, tmp_path: Path) -> None:
        web.pages["/shop.asmx?wsdl"] = WSDL.format(IT)
        brought = await fetch(f"{web.url}/shop.asmx?wsdl")
        assert brought.sources == {"shop.wsdl": f"{web.url}/shop.asmx?wsdl"}
        assert loads(brought, tmp_path) == ["shop.wsdl"]

    async def test_relative_absolute_and_by_query(self, web: Web, tmp_path: Path) -> None:
        web.pages |= {
            "/a/shop.svc?wsdl": WSDL.format(
                include("types.xsd") + include("../b/more types.xsd") + include("?xsd=1")
                + include(f"{web.url}/a/shop.svc?xsd=xsd2&amp;v=3")
            ),
            "/a/types.xsd": SCHEMA.format(IT),
            "/b/more%20types.xsd": SCHEMA.format(include("types.xsd")),
            "/b/types.xsd": SCHEMA.format('<xs:element name="other"/>'),
            "/a/shop.svc?xsd=1": SCHEMA.format('<xs:element name="one"/>'),
            "/a/shop.svc?xsd=xsd2&v=3": SCHEMA.format('<xs:element name="two"/>'),
        }  # fmt: skip
        brought = await fetch(f"{web.url}/a/shop.svc?wsdl")
        assert not brought.missing
        assert loads(brought, tmp_path) == [
            "shop.wsdl", "types.xsd", "more-20types.xsd", "shop-1.xsd", "shop-xsd2-3.xsd",
            "types-2.xsd",
        ]  # fmt: skip
        assert load_wsdl(tmp_path / "shop.wsdl").schemas.has_element("{urn:t}other")

    async def test_imports_of_wsdls(self, web: Web, tmp_path: Path) -> None:
        main, _, rest = WSDL.format(IT).partition("<types>")
        types = '<import namespace="urn:t" location="parts/types.wsdl"/>'
        _, _, behind = rest.partition("</types>")
        web.pages |= {
            "/x?wsdl": main + types + behind,
            "/parts/types.wsdl": main + "<types>" + SCHEMA.format(include("it.xsd"))
            + "</types></definitions>",
            "/parts/it.xsd": SCHEMA.format(IT),
        }  # fmt: skip
        brought = await fetch(f"{web.url}/x?wsdl")
        assert loads(brought, tmp_path) == ["x.wsdl", "types.wsdl", "it.xsd"]

    async def test_cycles_and_repetitions_are_fetched_once(self, web: Web, tmp_path: Path) -> None:
        web.pages |= {
            "/s": WSDL.format(include("a.xsd") + include("b.xsd")),
            "/a.xsd": SCHEMA.format(include("b.xsd") + include("#x") + IT),
            "/b.xsd": SCHEMA.format(include("./a.xsd") + include("/a.xsd#y")),
        }
        brought = await fetch(f"{web.url}/s")
        assert sorted(web.asked) == ["/a.xsd", "/b.xsd", "/s"]
        assert loads(brought, tmp_path) == ["s.wsdl", "a.xsd", "b.xsd"]

    async def test_what_the_catalogue_has_is_left_out(self, web: Web, tmp_path: Path) -> None:
        imported = "".join(
            f'<xs:import namespace="{namespace}" schemaLocation="{location}"/>'
            for namespace, location in (
                ("http://www.w3.org/XML/1998/namespace", "xml.xsd"),
                ("http://schemas.xmlsoap.org/soap/encoding/", f"{web.url}/encoding"),
            )
        )
        attribute = '<xs:complexType name="T"><xs:attribute ref="xml:lang"/></xs:complexType>'
        web.pages["/s"] = WSDL.format(imported + attribute + IT)
        brought = await fetch(f"{web.url}/s")
        assert web.asked == ["/s"]
        assert not brought.missing
        assert loads(brought, tmp_path) == ["s.wsdl"]

    async def test_names_stay_in_the_folder(self, web: Web, tmp_path: Path) -> None:
        path = "/s?xsd=..%2F..%2Fetc%2Fcron.d%2Fx"
        web.pages |= {"/s?wsdl": WSDL.format(include(path)), path: SCHEMA.format(IT)}
        brought = await fetch(f"{web.url}/s?wsdl")
        written = brought.write(tmp_path / "deep" / "folder")
        assert {file.parent for file in written} == {tmp_path / "deep" / "folder"}
        assert {file.name for file in tmp_path.rglob("*.*")} == {"s.wsdl", "s-etc-cron-d-x.xsd"}

    async def test_files_that_are_there_are_kept(self, web: Web, tmp_path: Path) -> None:
        web.pages |= {"/s": WSDL.format(include("a.xsd")), "/a.xsd": SCHEMA.format(IT)}
        brought = await fetch(f"{web.url}/s")
        (tmp_path / "a.xsd").write_text("mine")
        with pytest.raises(NotFetched, match="is there already") as told:
            brought.write(tmp_path)
        assert told.value.__notes__ == ["--force writes over it"]
        assert [file.name for file in tmp_path.iterdir()] == ["a.xsd"]
        assert (tmp_path / "a.xsd").read_text() == "mine"
        assert len(brought.write(tmp_path, force=True)) == 2


class TestWhatIsMissing:
    """A WSDL that imports what cannot be had is brought as far as it goes, and that is told."""

    @pytest.mark.parametrize(
        ("location", "says"),
        [
            ("gone.xsd", "status 404"),
            ("page.xsd", "answered with a web page"),
            ("data.xsd", "no WSDL and no schema but <data>"),
            ("broken.xsd", "not well-formed"),
            ("dtd.xsd", "has a DOCTYPE"),
            ("loop.xsd", "redirects without an end"),
            ("file:///etc/passwd", "not at an http:// or https:// URL"),
            ("http://127.0.0.1:1/x.xsd", "cannot be reached"),
        ],
    )
    async def test_told(self, web: Web, tmp_path: Path, location: str, says: str) -> None:
        web.pages |= {
            "/s": WSDL.format(include(location) + IT),
            "/page.xsd": "<!DOCTYPE html><html><body>log in</body></html>",
            "/data.xsd": "<data/>",
            "/broken.xsd": "<xs:schema",
            "/dtd.xsd": "<!DOCTYPE schema [<!ENTITY a 'b'>]>" + SCHEMA.format(IT),
            "/loop.xsd": (302, {"Location": "loop.xsd"}, ""),
        }
        brought = await fetch(f"{web.url}/s")
        [missing] = brought.missing
        assert says in missing
        assert location.removeprefix("./") in missing
        brought.write(tmp_path)
        assert load_wsdl(tmp_path / "s.wsdl").documents.missing

    async def test_hosts_that_are_not_allowed_are_not_asked(self, web: Web, tmp_path: Path) -> None:
        other = f"{web.elsewhere}/a.xsd"
        web.pages |= {
            "/s": WSDL.format(include(other) + include("moved.xsd")),
            "/moved.xsd": (307, {"Location": f"{web.elsewhere}/b.xsd"}, ""),
            "/a.xsd": SCHEMA.format(IT),
            "/b.xsd": SCHEMA.format('<xs:element name="b"/>'),
        }
        brought = await fetch(f"{web.url}/s")
        assert all("it is at another host (--allow localhost)" in m for m in brought.missing)
        assert len(brought.missing) == 2
        assert {host for host, _ in web.credentials} == {"127.0.0.1"}
        brought = await fetch(f"{web.url}/s", allow=["LOCALHOST"])
        assert not brought.missing
        assert loads(brought, tmp_path) == ["s.wsdl", "a.xsd", "moved.xsd"]


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "says", "hint"),
        [
            ("/gone", "status 404", ""),
            ("/page", "a web page", "?wsdl"),
            ("/xhtml", "no WSDL and no schema but <html>", "?wsdl"),
            ("/schema", "a schema and no WSDL", "the WSDL that imports it"),
            ("/empty", "is empty", ""),
            ("/locked", "asks for credentials", "--user"),
            ("/away", "another host", "--allow localhost"),
        ],
    )
    async def test_what_is_no_wsdl(self, web: Web, path: str, says: str, hint: str) -> None:
        web.pages |= {
            "/page": "\n<html><body>help</body></html>",
            "/xhtml": '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>',
            "/schema": SCHEMA.format(IT),
            "/empty": " ",
            "/locked": (401, {"WWW-Authenticate": "Basic"}, ""),
            "/away": (301, {"Location": web.elsewhere}, ""),
        }
        with pytest.raises(NotFetched) as told:
            await fetch(web.url + path)
        assert says in told.value.detail
        assert hint in "".join(getattr(told.value, "__notes__", ()))

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("shop.wsdl", "no http:// or https:// URL"),
            ("ftp://host/x", "no http:// or https:// URL"),
            ("http://", "no http:// or https:// URL"),
            ("http://user:secret@host/x", "has credentials in it"),
        ],
    )
    async def test_urls(self, url: str, says: str) -> None:
        with pytest.raises(NotFetched, match=says) as told:
            await fetch(url)
        assert "secret" not in told.value.detail

    async def test_a_file_without_authorities(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        with pytest.raises(NotFetched, match="holds no certificate"):
            await fetch("https://127.0.0.1:1/", ca=tmp_path / "ca.pem")


class TestLimits:
    @pytest.mark.parametrize(
        ("limit", "value", "says"),
        [
            ("MAX_DEPTH", 2, "more than 2 documents deep"),
            ("MAX_FILES", 3, "more than 3 documents"),
            ("MAX_BYTES", 3000, "larger than"),
        ],
    )
    async def test_of_all(
        self, web: Web, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, says: str
    ) -> None:
        """A server that always has one more."""
        web.pages["/s"] = WSDL.format(include("0.xsd"))
        for number in range(20):
            content = include(f"{number + 1}.xsd") + " " * 500
            web.pages[f"/{number}.xsd"] = SCHEMA.format(content)
        monkeypatch.setattr(module, limit, value)
        with pytest.raises(NotFetched, match=says):
            await fetch(f"{web.url}/s")
        assert len(web.asked) < 10

    async def test_of_one(self, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_DOCUMENT", 1000)
        web.pages["/s"] = WSDL.format(IT) + " " * 1000
        with pytest.raises(NotFetched, match="larger than 1000 bytes"):
            await fetch(f"{web.url}/s")

    async def test_of_time(self, web: Web) -> None:
        web.pages |= {"/s": WSDL.format(include("a.xsd")), "/a.xsd": "hold"}
        with pytest.raises(NotFetched, match="took too long") as told:
            await fetch(f"{web.url}/s", timeout=0.5)
        assert "--timeout" in told.value.__notes__[0]


async def test_credentials_go_to_the_origin_alone(web: Web) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(Web())
        thread = threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(other.shutdown)
        other.pages["/b.xsd"] = SCHEMA.format("")
        web.pages |= {
            "/s": WSDL.format(
                include("a.xsd") + include(f"{other.url}/b.xsd") + include("c.xsd") + IT
            ),
            "/a.xsd": SCHEMA.format(""),
            "/c.xsd": (302, {"Location": f"{web.elsewhere}/d.xsd"}, ""),
            "/d.xsd": SCHEMA.format(""),
        }
        brought = await fetch(f"{web.url}/s", user="me", password="s3cret", allow=["localhost"])
        assert not brought.missing
        basic = "Basic bWU6czNjcmV0"
        assert web.credentials == [
            ("127.0.0.1", basic), ("127.0.0.1", basic), ("127.0.0.1", basic), ("localhost", None)
        ]  # fmt: skip
        assert other.credentials == [("127.0.0.1", None)]
