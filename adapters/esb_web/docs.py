"""The pages that document what is served: a FastAPI app beside the Sites. A Site mounted on exactly
one of these paths takes its place; a Site that only matches it with a parameter does not.

    /openapi.json        everything             <api>/openapi.json    one API
    /docs                Swagger UI for it      <api>/docs
    /                    what is served, unless a Site is mounted there

It is imported on the first request for one of these, and costs other requests nothing. Nothing is
loaded from elsewhere: Swagger UI's files come with a package.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, HTTPException
from fastapi import Request as WebRequest
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from esb import asgi
from esb.http import Exchange
from esb_web.messages import Site
from esb_web.openapi import document

if TYPE_CHECKING:
    from esb_web.server import WebServer

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    # Swagger UI sets styles on its elements and draws with inline images.
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

# What was shown at the door (`door.py`) is needed to read the document, and is offered to try it.
_START: Final = """const shown = JSON.parse(sessionStorage.getItem("shown"));
const ui = SwaggerUIBundle({
  url: document.currentScript.dataset.url, dom_id: "#swagger-ui", deepLinking: true,
  tryItOutEnabled: true, validatorUrl: null, displayRequestDuration: true,
  requestInterceptor: (request) => {
    if (shown && request.loadSpec) request.headers[shown.header] = shown.value;
    return request;
  },
  onComplete: () => { if (shown) ui.preauthorizeApiKey(shown.scheme, shown.entered); },
});
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{base}/docs/assets/swagger-ui.css">
<link rel="icon" href="data:,"></head>
<body>{body}</body></html>
"""

_SWAGGER: Final = """<div id="swagger-ui"></div>
<script src="{base}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{base}/docs/start.js" data-url="{url}"></script>"""


class Docs:
    """The app, and which paths are its."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._documents: dict[tuple[str, str], dict[str, Any]] = {}
        self._version = -1
        self._sites: list[Site] = []
        self._apis: dict[str, Site] = {}
        self._app = self._made()

    def has(self, path: str) -> bool:
        """Whether this has an answer for a path."""
        self._refresh()
        if path == "/" or path.startswith("/docs/"):
            return True
        api, _, name = path.rpartition("/")
        return name in ("docs", "openapi.json") and api in self._apis

    async def answer(self, exchange: Exchange, path: str, base_path: str) -> None:
        """Answer GET or HEAD for a path that `has` said yes to."""
        await asgi.answer(self._app, exchange, path, {"base": base_path})

    def _refresh(self) -> None:
        # Here and not in the app, whose functions run in threads.
        if self._version == self._server.version:
            return
        self._version = self._server.version
        self._documents = {}
        self._sites = [site for site in self._server.sites if site.operation is not None]
        self._apis = {"": _NOBODY}
        for site in self._sites:
            known = self._apis.get(site.api)
            if known is None or (site.api and site.title and not known.title):
                self._apis[site.api] = site

    def _document(self, api: str, base: str) -> dict[str, Any]:
        found = self._documents.get((api, base))
        if found is None:
            site = self._apis[api]
            found = self._documents[api, base] = document(
                [s for s in self._sites if not api or s.api == api],
                url=base,
                title=site.title or api.strip("/"),
                description=site.description,
            )
        return found

    def _made(self) -> FastAPI:
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        static = StaticFiles(directory=str(files("fastapi_offline") / "static"))
        app.mount("/docs/assets", static)

        def known(api: str) -> str:
            api = api.rstrip("/")
            if api not in self._apis:
                raise HTTPException(404)
            return api

        @app.get("/")
        def index(request: WebRequest) -> Response:
            base = request.state.base
            return _html("What is served", base, self._index(base))

        @app.get("/docs/start.js")
        def start() -> Response:
            return Response(_START, media_type="text/javascript", headers=_HEADERS)

        @app.get("{api:path}/openapi.json")
        def openapi(api: str, request: WebRequest) -> Response:
            return JSONResponse(self._document(known(api), request.state.base), headers=_HEADERS)

        @app.get("{api:path}/docs")
        def swagger(api: str, request: WebRequest) -> Response:
            api, base = known(api), request.state.base
            title = self._document(api, base)["info"]["title"]
            body = _SWAGGER.format(
                base=html.escape(base), url=html.escape(base + api + "/openapi.json")
            )
            return _html(title, base, body)

        return app

    def _index(self, base: str) -> str:
        lines = [
            "<div class='swagger-ui' style='padding:2em'><h1 class='title'>What is served</h1>"
        ]
        for api, site in self._apis.items():
            title = html.escape(site.title or api or "Everything")
            at = html.escape(base + api)
            lines.append(
                f"<h3><a href='{at}/docs'>{title}</a> "
                f"<small><code>{at}/</code> "
                f"<a href='{at}/openapi.json'>OpenAPI</a></small></h3>"
            )
        lines.append("<table><tbody>")
        for site in sorted(self._sites, key=lambda s: s.path):
            operation, _ = site.described()
            lines.append(
                f"<tr><td>{html.escape(', '.join(site.methods))}</td>"
                f"<td><code>{html.escape(base + site.path)}</code></td>"
                f"<td>{html.escape(_about(operation))}</td></tr>"
            )
        lines.append("</tbody></table></div>")
        return "\n".join(lines)


def _about(operation: Mapping[str, Any]) -> str:
    return str(operation.get("summary") or operation.get("description", "").partition("\n")[0])


async def _nothing(_request: object) -> Any:
    raise AssertionError("this site is never mounted")


_NOBODY: Final = Site(path="/", methods=(), handler=_nothing)


def _html(title: str, base: str, body: str) -> HTMLResponse:
    page = _PAGE.format(title=html.escape(title), base=html.escape(base), body=body)
    return HTMLResponse(page, headers=_HEADERS)
