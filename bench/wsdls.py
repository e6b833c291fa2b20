"""Certify every WSDL below a folder, and write a table of what came of it.

    bench/wsdls.py FOLDER [-o FILE]

Each file is loaded, described and certified in a process of its own, so that one cannot warm
another's caches. The columns:

    loads       operations of all SOAP ports, or why there are none
    load        milliseconds from the file's path to its operations
    memory      MB that the process has more after loading than before
    OpenAPI     whether the document that `expose` serves is valid (openapi-spec-validator)
    certified   operations through which nothing is lost (`esb wsdl certify`)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "wsdls.md"
_HEAD = """\
# WSDLs

Made by `bench/wsdls.py`; its first lines tell what the columns are. {loaded} of {files} files load,
{certified:,} of {operations:,} operations are certified.

| WSDL | loads | load, ms | memory, MB | OpenAPI | certified |
| --- | --- | ---: | ---: | --- | ---: |
"""


def look(path: Path) -> dict[str, Any]:
    """What came of one file, in this process."""
    from openapi_spec_validator import validate
    from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

    from esb_soap.certify import certify
    from esb_soap.cli import Api
    from esb_soap.wsdl import WsdlError, load_wsdl

    before = _resident()
    try:
        wsdl = load_wsdl(path)
    except WsdlError as e:
        return {"error": str(e), "operations": 0, "certified": 0}
    memory = _resident() - before
    report = certify(path)
    found: dict[str, Any] = {
        "error": report.error,
        "operations": report.operations,
        "certified": report.certified,
        "exceptions": [str(one) for one in report.exceptions],
        "load_ms": report.load_ms,
        "memory_mb": memory,
        "openapi": "valid",
    }
    try:
        validate(Api.of(path, wsdl, at="").document())
    except OpenAPIValidationError as e:
        found["openapi"] = f"not valid: {e.message}"
    return found


def _resident() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _row(name: str, found: dict[str, Any]) -> str:
    if found["error"]:
        return f"| {name} | no: {found['error']} | | | | |"
    certified = f"{found['certified']:,} of {found['operations']:,}"
    return (
        f"| {name} | {found['operations']:,} operations | {found['load_ms']} "
        f"| {found['memory_mb']:.1f} | {found['openapi']} | {certified} |"
    )


def table(folder: Path) -> str:
    """The table for all WSDLs below a folder, with the exceptions below it."""
    files = sorted(p for p in folder.rglob("*") if p.suffix == ".wsdl" or ".asmx" in p.name)
    rows, exceptions, all_found = [], [], []
    for path in files:
        name = path.relative_to(folder).as_posix()
        print(name, file=sys.stderr)
        command = [sys.executable, __file__, "--one", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = json.loads(output)
        all_found.append(found)
        rows.append(_row(name, found))
        exceptions += [f"* {name}: {one}" for one in found.get("exceptions", [])]
    head = _HEAD.format(
        files=len(files),
        loaded=sum(not found["error"] for found in all_found),
        operations=sum(found["operations"] for found in all_found),
        certified=sum(found["certified"] for found in all_found),
    )
    tail = "\n## Exceptions\n\n" + "\n".join(exceptions) + "\n" if exceptions else ""
    return head + "\n".join(rows) + "\n" + tail


def main() -> None:
    """Measure one file (for itself) or all of a folder."""
    parser = argparse.ArgumentParser(description="Certify every WSDL below a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(look(options.folder)))
        return
    options.output.write_text(table(options.folder))


if __name__ == "__main__":
    main()
