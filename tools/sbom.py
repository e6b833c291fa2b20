#!/usr/bin/env python3
"""What the bus is made of: `sbom.cdx.json` (CycloneDX 1.5) and the page of licences, from uv.lock.

Run with the project's own Python, since licences are read from what is installed:

    .venv/bin/python tools/sbom.py            write both
    .venv/bin/python tools/sbom.py --check    say what is out of date, with exit status 1

Everything a user may install is in it, extras included; what only tests and the bench need is not.
There is no time and no serial number, so that the same lock file gives the same bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from setup import fetch_uv, find_uv

PROJECT: Final = Path(__file__).resolve().parent.parent
SBOM: Final = PROJECT / "sbom.cdx.json"
PAGE: Final = PROJECT / "docs" / "licences.md"

CLASSIFIED: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX's names of what packages call their licences without them."""

KNOWN: Final = {
    "apsw": "Zlib",  # says "any OSI licence"; its own text is this one
    "async-timeout": "Apache-2.0",  # for the first Pythons 3.11 only
    "colorama": "BSD-3-Clause",  # Windows only, so not there to be read
    "fastapi-offline": "MIT",
    "protobuf": "BSD-3-Clause",  # says "3-Clause BSD License"
    "uvloop": "MIT OR Apache-2.0",
}
"""Where the metadata do not say it, or cannot be read here."""

GOOD: Final = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0"),
    *("PSF-2.0", "Unlicense", "Zlib"),
}
"""What may be in it: nothing that says how those who use the bus have to license what is theirs."""

INSIDE: Final = {
    "apsw": ["SQLite (public domain)"],
    "fastapi-offline": ["Swagger UI (Apache-2.0)", "ReDoc (MIT)"],
    "httptools": ["llhttp (MIT)"],
    "lxml": ["libxml2 (MIT)", "libxslt (MIT)"],
    "uvloop": ["libuv (MIT)"],
}
"""What wheels carry along that is not of their own."""


class Unfit(Exception):
    """A package has no licence that is known, or one that may not be in it."""


def main() -> int:
    """Write or check; returns the exit status."""
    try:
        bom = described()
        wanted = {SBOM: json.dumps(bom, indent=1) + "\n", PAGE: page(bom)}
    except Unfit as e:
        print(f"sbom: {e}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        for path, text in wanted.items():
            path.write_text(text)
        return 0
    late = [p.name for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    if late:
        print(f"sbom: out of date: {', '.join(late)}; `make sbom` writes it", file=sys.stderr)
    return 1 if late else 0


def described() -> dict[str, Any]:
    """The components of uv.lock with their licences, as CycloneDX has them. Raises Unfit."""
    command = [
        *(find_uv() or fetch_uv(), "export", "--frozen", "--no-dev", "--all-extras", "--quiet"),
        *("--format", "cyclonedx1.5", "--preview-features", "sbom-export"),
    ]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    bom: dict[str, Any] = json.loads(done.stdout)
    del bom["serialNumber"], bom["metadata"]["timestamp"]
    own = bom["metadata"]["component"]
    own["licenses"] = [{"license": {"id": "Apache-2.0"}}]
    for component in bom["components"]:
        expression = licence(component["name"])
        component["licenses"] = [{"expression": expression}]
        files = component.get("externalReferences", [])
        # The digests of all wheels for all machines are in uv.lock.
        if source := [one for one in files if one["url"].endswith((".tar.gz", ".zip"))]:
            component["externalReferences"] = source
    return bom


def licence(name: str) -> str:
    """The SPDX expression of a package's licence. Raises Unfit."""
    expression = KNOWN.get(name) or _installed(name)
    terms = re.split(r"\s+(?:AND|OR|WITH)\s+", expression.strip("()"))
    if not GOOD.issuperset(term.strip("()") for term in terms):
        raise Unfit(f"{name} is under {expression or 'an unknown licence'}")
    return expression


def _installed(name: str) -> str:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        raise Unfit(f"{name} is not installed, so its licence cannot be read") from None
    if expression := about.get("License-Expression"):
        return str(expression)
    named = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier", [])]
    found = sorted({CLASSIFIED[one] for one in named if one in CLASSIFIED})
    if found:
        return " OR ".join(found)
    text = str(about.get("License") or "").strip()
    return {"MIT": "MIT", "Apache 2.0": "Apache-2.0"}.get(text, text)


def page(bom: dict[str, Any]) -> str:
    """The page of licences, in Markdown."""
    why = _reasons()
    rows = []
    for one in sorted(bom["components"], key=lambda one: str(one["name"])):
        name = one["name"]
        inside = f" with {', '.join(INSIDE[name])}" if name in INSIDE else ""
        expression = one["licenses"][0]["expression"]
        rows.append(f"| {name} {one['version']}{inside} | {expression} | {why.get(name, '')} |")
    return "\n".join((_HEAD, *rows, ""))


_HEAD = """# What is in it, and under which licences

Made from `uv.lock` by `make sbom`; `make check` says when it is out of date, and refuses a licence
that would bind those who use the bus. The bus itself is under the [Apache License 2.0](../LICENSE).
With digests, and who needs whom: [sbom.cdx.json](../sbom.cdx.json) (CycloneDX 1.5). A row without a
reason is there because another needs it.

| package | licence | for |
| --- | --- | --- |"""


def _reasons() -> dict[str, str]:
    """What `pyproject.toml` says each dependency is for."""
    text = (PROJECT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    found: dict[str, str] = {}
    for line in text.partition("[dependency-groups]")[0].splitlines():
        entry = re.search(r'"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?[ ><=~!;][^"]*"', line)
        comment = line.partition("# ")[2]
        if entry and comment:
            name = entry[1].lower().replace("_", "-")
            extra = next((x for x, all_ in extras.items() if any(name in one for one in all_)), "")
            found[name] = f"{comment.replace('|', '/')}{f' (extra `{extra}`)' if extra else ''}"
    return found


if __name__ == "__main__":
    sys.exit(main())
