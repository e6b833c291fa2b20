"""nginx, twice: as the backend that answers everything, and as the reverse proxy to compare with.

Never as a system service: each has a folder, a configuration and a port of its own and runs in the
foreground, one worker each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from load import get

_COMMON = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_body_buffer_size 256k;
    keepalive_requests 1000000000;
    tcp_nodelay on;
{http}
}}
"""

_PROXY = """\
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} reuseport{tls};
{certificate}
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_buffers 32 8k;
            proxy_set_header Connection "";
        }}
    }}
"""

_PIECE = 1000
"""nginx takes no longer words than 4 KB: longer bodies are put together from pieces."""


def write_proxy(
    folder: Path, port: int, backend: int, certificate: tuple[Path, Path] | None = None
) -> list[str]:
    """Configure a reverse proxy as nginx's documentation advises (keepalive to the upstream, no
    access log), behind TLS if there is a certificate and a key; the command that runs it."""
    shown = ""
    if certificate is not None:
        shown = "        ssl_certificate {};\n        ssl_certificate_key {};".format(*certificate)
    tls = " ssl" if certificate else ""
    return _write(folder, _PROXY.format(port=port, backend=backend, tls=tls, certificate=shown))


def write_backend(folder: Path, port: int, answers: Mapping[str, tuple[str, bytes]]) -> list[str]:
    """Configure a server that answers each path with a content type and a body, or with 204 if the
    body is empty, and counts requests; the command that runs it."""
    maps, locations = [], []
    for number, (path, (kind, body)) in enumerate(answers.items()):
        answer = "204"
        if body:
            names = []
            for at, piece in enumerate(_pieces(body.decode())):
                names.append(f"$b{number}_{at}")
                maps.append(f"    map '' {names[-1]} {{ default '{piece}'; }}")
            answer = f"200 '{''.join(names)}'"
        locations.append(f"        location = {path} {{ default_type '{kind}'; return {answer}; }}")
    server = f"""\
    server {{
        listen 127.0.0.1:{port} reuseport;
        location = /status {{ stub_status; }}
{chr(10).join(locations)}
    }}
"""
    return _write(folder, "\n".join(maps) + "\n" + server)


def version() -> str:
    """The version of the nginx that is installed."""
    said = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=True)
    return said.stderr.strip().rpartition("/")[2]


class Counter:
    """How many requests a backend has answered, its own questions left out."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._asked = 0

    def __call__(self) -> int:
        """The number so far."""
        page = get(self._port, "/status").decode()
        self._asked += 1
        found = re.search(r"^ *\d+ +\d+ +(\d+)", page, re.MULTILINE)
        assert found is not None, page
        return int(found[1]) - self._asked


def _pieces(text: str) -> list[str]:
    assert not set(text) & set("'$\\"), "nginx would take these for its own"
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]


def _write(folder: Path, http: str) -> list[str]:
    folder.mkdir()
    # As root the worker would become nobody, who may not enter our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_COMMON.format(user=user, http=http))
    return [_program(), "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"]


def _program() -> str:
    # Debian puts it where only root's PATH leads.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""
