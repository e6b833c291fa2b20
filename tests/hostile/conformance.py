"""Holds a bus to the documents it serves: `/openapi.json` of its listener (hosted routes and an
exposed SOAP service) and of its admin API, by Schemathesis with all of its checks.

    PYTHONPATH=tests .venv/bin/python -m hostile.conformance [--seconds 600]
        [--of listener|admin|operator|reader|stranger] [--schemathesis "uv tool run schemathesis"]

`admin` is the admin API where nobody is asked who he is; the last three are it with `auth`, used by
somebody who may do all, by one who may only look, and by one who shows nothing.

Schemathesis is no dependency of the project: it takes part by its command line. What it finds is
printed, and is the exit status. What is left out, and why:

* TRACE is answered with 501, which RFC 9110 (section 15.6.2) gives to methods that a server knows
  for no resource at all; Schemathesis wants 405;
* `trace` and `recording` of the admin API go on until the caller leaves.

A finding can be right about the document and yet be no defect: a path with a control character is
refused (400), and no schema says that selections of dead letters are by one way only (422), or
what stands in an XML body.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from support.processes import Process, free_ports, request

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "examples"
KEYS = {
    "listener": "esb_try-meridian",
    "operator": "esb_try-operator-of-the-bus",
    "reader": "esb_try-reader-of-the-bus",
}
"""What is shown, by who it is."""
OF = ["listener", "admin", "operator", "reader", "stranger"]


def main() -> int:
    """Run it; the exit status of Schemathesis, the worst of all."""
    parser = argparse.ArgumentParser(prog="hostile.conformance", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each document")
    parser.add_argument("--of", choices=OF, help="one of them alone")
    parser.add_argument("--schemathesis", default="schemathesis", help="the command to run it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return max(
            _held(Path(folder), of, given.seconds, shlex.split(given.schemathesis))
            for of in ([given.of] if given.of else OF)
        )


def _held(folder: Path, of: str, seconds: int, schemathesis: list[str]) -> int:
    # A bus for each: what the admin API is asked to do changes what is served. It runs in a folder
    # of its own, never in the checkout: a roll-back writes and deletes files of whatever ran from
    # the folder it is in.
    port, admin, far = free_ports(3)
    project = folder / of
    project.mkdir()
    for path in (
        HERE / "documents" / "routes.yaml",
        HERE / "documents" / "staff.keys.yaml",
        EXAMPLES / "secured-api" / "partners.keys.yaml",
        EXAMPLES / "legacy" / "partner.wsdl",
    ):
        (project / path.name).write_bytes(path.read_bytes())
    environ = {
        "PORT": str(port),
        "ADMIN": str(admin),
        "OPERATORS": "public" if of == "admin" else "staff",
        "STORE": str(folder / f"{of}.db"),
        "LEGACY_URL": f"http://127.0.0.1:{far}",
    }
    bus = [sys.executable, "-c", _PATIENT, "run", project, "--json", "--log-level", "error"]
    legacy = [sys.executable, EXAMPLES / "legacy" / "server.py", "--port", str(far)]
    with Process(legacy, cwd=folder), Process(bus, cwd=project, environ=environ) as running:
        running.wait_for(f"http://127.0.0.1:{admin}/readyz")
        for _ in range(3):  # they become dead letters
            content = {"Content-Type": "application/json"}
            request("POST", f"http://127.0.0.1:{port}/taken", json.dumps({}).encode(), content)
        url = f"http://127.0.0.1:{port if of == 'listener' else admin}"
        # A stranger is not shown it.
        shown = {"X-API-Key": KEYS.get(of) or KEYS["operator"]}
        document = folder / f"{of}.json"
        document.write_bytes(request("GET", f"{url}/openapi.json", headers=shown).body)
        command = [
            *schemathesis, "run", document, "--url", url, "--checks", "all",
            "--max-time", str(seconds), "--request-timeout", "10", "--continue-on-failure",
            "--exclude-path-regex", "^/routes/.*/(trace|recording)$",
            *(["--header", f"X-API-Key: {KEYS[of]}"] if of in KEYS else []),
        ]  # fmt: skip
        settings = project.parent / f"{of}.toml"
        settings.write_text(_SETTINGS)
        command[len(schemathesis) : len(schemathesis)] = ["--config-file", str(settings)]
        status = subprocess.run(command, cwd=folder, check=False).returncode
        if running.ended is not None:
            print(f"the bus has ended:\n{running.output[-5000:]}")
            return 1
        print(running.output[-5000:])
        return status


# Schemathesis shows wrong keys by the hundred, and is to see 401 rather than the pause (429) of
# those who guess.
_PATIENT = """\
from esb import guessing
guessing.FREE = 10**9
from esb.cli import app
app()
"""

_SETTINGS = """\
[phases.coverage]
unexpected-methods = ["PUT", "PATCH", "DELETE", "OPTIONS"]
"""


if __name__ == "__main__":
    sys.exit(main())
