"""What lets pages of other origins call (Fetch Standard, section 3.3)."""

from __future__ import annotations

from esb.envelope import Headers
from esb_web.listen import Cors
from esb_web.messages import Headerlist


def allowed_by(cors: Cors, headers: Headers) -> Headerlist:
    """What lets the page that asks read the answer; nothing if it may not."""
    origin = headers.get("origin")
    if not origin:
        return []
    if "*" in cors.origins:
        found = [("access-control-allow-origin", "*")]
    elif origin in cors.origins:
        found = [("access-control-allow-origin", origin)]
    else:
        return []
    if cors.credentials:
        found.append(("access-control-allow-credentials", "true"))
    if cors.expose:
        found.append(("access-control-expose-headers", ", ".join(cors.expose)))
    return found


def preflight(cors: Cors, headers: Headers) -> Headerlist:
    """What the page that asks may send; nothing if it may not call at all."""
    if not allowed_by(cors, headers):
        return []
    return [
        ("access-control-allow-methods", ", ".join(cors.methods)),
        ("access-control-allow-headers", ", ".join(cors.headers)),
        ("access-control-max-age", str(int(cors.max_age))),
    ]
