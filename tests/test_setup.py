"""Set-up on a machine that has Python and nothing else: uv comes from an index, checked."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import setup

PROGRAM = b"#!/bin/sh\necho uv 99.0.0\n"


def _wheel() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(f"uv-{setup.UV}.data/scripts/uv", PROGRAM)
    return written.getvalue()


WHEEL = _wheel()
NAME = f"uv-{setup.UV}-py3-none-any.whl"
JSON_PAGE = json.dumps({"files": [{"filename": NAME, "url": f"../../files/{NAME}"}]})
HTML_PAGE = f'<!DOCTYPE html><a href="../../files/{NAME}#sha256=ab">{NAME}</a>'


@pytest.fixture(params=[JSON_PAGE, HTML_PAGE], ids=["json", "html"])
def index(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A package index, and a project that has nothing yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages = {"/simple/uv/": request.param.encode(), f"/files/{NAME}": WHEEL}
            found = pages.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(setup, "PROJECT", tmp_path)
        monkeypatch.setattr(setup, "TOOLS", tmp_path / ".tools")
        digest = hashlib.sha256(WHEEL).hexdigest()
        monkeypatch.setattr(setup, "WHEELS", dict.fromkeys(setup.WHEELS, ("any", digest)))
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
        monkeypatch.setenv("PATH", str(tmp_path))
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_uv_is_fetched_once(index: str) -> None:
    assert setup.find_uv() is None
    program = setup.fetch_uv()
    assert program.read_bytes() == PROGRAM
    assert program.stat().st_mode & 0o111
    assert setup.find_uv() == program
    assert [path.name for path in program.parent.iterdir()] == ["uv"]


def test_another_file_is_refused(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "WHEELS", dict.fromkeys(setup.WHEELS, ("any", "0" * 64)))
    with pytest.raises(setup.SetupFailed, match="SHA-256"):
        setup.fetch_uv()
    assert setup.find_uv() is None


def test_an_index_that_cannot_help_is_named(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "UV", "0.0.1")
    with pytest.raises(setup.SetupFailed, match=r"simple/uv/ has no uv-0\.0\.1"):
        setup.fetch_uv()
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/nothing")
    with pytest.raises(setup.SetupFailed, match=r"cannot be fetched.*HTTPS_PROXY"):
        setup.fetch_uv()


@pytest.mark.parametrize(("version", "taken"), [("uv 0.1.0", False), (f"uv {setup.UV}", True)])
def test_uv_on_path_is_taken_if_it_is_new_enough(
    index: str, tmp_path: Path, version: str, taken: bool
) -> None:
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\necho '{version} (x86_64)'\n")
    program.chmod(0o755)
    assert setup.find_uv() == (program if taken else None)


def test_each_wheel_has_a_hash() -> None:
    assert all(len(digest) == 64 for _, digest in setup.WHEELS.values())
