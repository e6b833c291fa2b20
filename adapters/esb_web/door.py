"""What a browser is shown instead of a page of documentation where it is not known who asks: a form
for a key or a token, since browsers themselves ask for names and passwords alone.

The page is a 401 like any other. What is entered is kept in the tab (sessionStorage), goes as a
header with each request for a page and its parts, and is what "try it out" begins with. No cookie
is set, so nothing is sent that the page did not mean to send.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from typing import Any, Final

# The parts of a page want the header as well, so they are fetched and put in, in their order.
_SCRIPT: Final = """
const form = document.querySelector("form"), told = document.querySelector("[role=alert]");
const seconds = (answer) => Number(answer.headers.get("retry-after")) || 1;
async function open(shown) {
  const get = (url) => fetch(url, {headers: {accept: "text/html", [shown.header]: shown.value}});
  const answer = await get(location.href);
  if (!answer.ok) {
    sessionStorage.removeItem("shown");
    told.textContent = answer.status === 429
      ? `Too many attempts failed: try again in ${seconds(answer)} s.`
      : "This is not taken here.";
    return;
  }
  sessionStorage.setItem("shown", JSON.stringify(shown));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const link of page.querySelectorAll("link[rel=stylesheet]")) {
    const style = document.createElement("style");
    style.textContent = await (await get(link.href)).text();
    document.head.append(style);
  }
  document.title = page.title;
  const scripts = [...page.querySelectorAll("script")];
  scripts.forEach((script) => script.remove());
  document.body.replaceChildren(...page.body.childNodes);
  for (const script of scripts) {
    const running = document.createElement("script");
    Object.assign(running.dataset, script.dataset);
    running.src = URL.createObjectURL(await (await get(script.src)).blob());
    const loaded = new Promise((resolve, reject) =>
      Object.assign(running, {onload: resolve, onerror: reject}));
    document.body.append(running);
    await loaded;
  }
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [way, entered] = [form.elements.way.selectedOptions[0].dataset, form.elements.shown.value];
  open({scheme: way.scheme, header: way.header, value: way.before + entered, entered});
});
const kept = sessionStorage.getItem("shown");
if (kept) open(JSON.parse(kept));
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Who are you?</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>body:has(>main){{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:4rem auto;
padding:0 1rem}}main label{{display:block;margin:.8rem 0}}main input,main select,main button{{
font:inherit;padding:.4rem .6rem}}main input{{width:100%;box-sizing:border-box}}
main [role=alert]{{color:#b00020}}</style></head>
<body><main><h1>Who are you?</h1>
<p>These pages are for those who may call what they describe.</p>
{form}
</main></body></html>
"""

_FORM: Final = """<form><label>What you show <select name="way">{ways}</select></label>
<label>Key or token
<input name="shown" type="password" required autocomplete="off" autofocus></label>
<button>Show the page</button></form>
<p role="alert"></p>
<p><small>It stays in this tab, and is forgotten with it.</small></p>
<noscript><p>Without scripts: <code>curl -H '{header}: …' …/openapi.json</code></p></noscript>
<script>{script}</script>"""

_HASH: Final = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

HEADERS: Final = {
    # What the script puts in may run, and nothing else: no script of a page, no handler in markup.
    "content-security-policy": f"default-src 'none'; script-src 'sha256-{_HASH}' 'strict-dynamic'; "
    "connect-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "content-type": "text/html; charset=utf-8",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "vary": "Accept",
}


def door(schemes: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The page for these Security Scheme Objects of OpenAPI, by name. Where a form would not help
    it says what does."""
    ways = {name: way for name, scheme in schemes.items() if (way := _header(scheme))}
    if ways:
        options = "".join(
            f'<option data-scheme="{html.escape(name)}" data-header="{html.escape(header)}" '
            f'data-before="{before}">{html.escape(name)} ({html.escape(header)})</option>'
            for name, (header, before) in ways.items()
        )
        header = html.escape(next(iter(ways.values()))[0])
        form = _FORM.format(ways=options, header=header, script=_SCRIPT)
    elif any(scheme.get("scheme") == "basic" for scheme in schemes.values()):
        form = "<p>Load the page again to be asked for a name and a password.</p>"
    else:
        form = "<p>A certificate is needed, which your browser has to know.</p>"
    return _PAGE.format(form=form).encode()


def _header(scheme: Mapping[str, Any]) -> tuple[str, str] | None:
    """The header that a scheme wants, and what stands in it before the key; None if it is not what
    a person can enter."""
    if scheme.get("scheme") == "bearer":
        return "Authorization", "Bearer "
    if scheme.get("type") == "apiKey" and "x-signs" not in scheme:
        return str(scheme["name"]), ""
    return None
