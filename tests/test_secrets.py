"""Thirty secrets are planted in a project and in what its callers send; a bus then succeeds, fails,
refuses, crashes, reloads mistakes and loses everything behind it. None of them is in anything that
it writes, shows or keeps, however it may be spelled there.

What holds a message holds what its sender put into its body, path and query: the store, and whoever
asks for the body of a dead letter. The bus's own credentials, and those in headers of its callers,
are not there either.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.processes import Answer, Process, free_ports, request
from support.vault import ROLE, fake_vault
from typer.testing import CliRunner

from esb.cli import app

from .test_drain import ESB

PROJECT = Path(__file__).resolve().parent.parent
KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

ENVIRON = {
    "CRM_PASSWORD": 'crm"&+/<\u00e9 basic one',
    "HOOK_SIGNING": "hook-signing/two+=",
    "AWS_KEY": "aws/secret+three/abcdefgh",
    "AWS_SESSION": "aws-session-four",
    "QUERY_KEY": "query-key-five",
    "PARTNER_TOKEN": "partner-token-six",
    "PROXY_PASSWORD": "proxy%2Fpassword-seven",
    "WSSE_PASSWORD": "wsse&<password>-eight",
    "WSSE_DIGEST": "wsse-digest-nine",
    "ADA_PASSWORD": "password-of-ada-ten",
    "BROKER_PASSWORD": "broker-password-eleven",
    "REDIS_PASSWORD": "redis-password-twelve",
    "STORE_PASSWORD": "store-password-thirteen",
    "VAULT_SECRET_ID": "vault-secret-id-fourteen",
    "CRASH_TOKEN": "crash-token-fifteen",
    "SET_SECRET": "set-secret-sixteen",
    "INBOUND_HOOK": "inbound-hook-seventeen-b",
    "OAUTH_BODY_SECRET": "oauth-in-body-seventeen",
    "OTHER_WORD": "other-word-eighteen",  # neither a name nor a place says that it is a secret
}
FILES = {"bearer": "bearer-in-a-file-nineteen", "key.pem": KEY.decode()}
MOUNTED = {"key": "api-key-mounted-twenty"}
VAULT = {"secret": "oauth-secret-twenty-one", "hook": "hook-of-vault-twenty-two"}
CALLERS = {
    "Authorization": "Bearer callers-bearer-twenty-three",
    "Cookie": "session=callers-cookie-twenty-four",
    "X-API-Key": "callers-api-key-twenty-five",
    "Proxy-Authorization": "Basic Y2FsbGVyczpwcm94eS10d2VudHktc2l4",
    "X-Auth-Token": "callers-auth-token-twenty-seven",
}
KNOWN_BY = {"X-Partner-Key": "esb_callers-key-of-a-partner-thirty-one"}
IN_MESSAGES = {"query": "callers-query-twenty-eight", "body": "callers-body-twenty-nine",
               "wsse": "callers-wsse-thirty"}  # fmt: skip

PEM = "".join(KEY.decode().splitlines()[1:-1])
OURS = [*(unquote_plus(v) if "%" in v else v for v in ENVIRON.values()), FILES["bearer"], PEM[:40],
        *MOUNTED.values(), *VAULT.values()]  # fmt: skip
OURS.remove(ENVIRON["OTHER_WORD"])
THEIRS = [value.split("=")[-1].split(" ")[-1] for value in (CALLERS | KNOWN_BY).values()]


# --- what is around the bus ----------------------------------------------------------------------


@contextmanager
def far_side() -> Iterator[str]:
    """One that is not well: /echo/<status> answers with that status and with all that it got."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = int(self.path.partition("?")[0].rpartition("/")[2])
            told = b'{"ok": true}'
            if status >= 300:
                head = f"{self.path}\n{self.headers}\n"
                told = head.encode() + body + base64.b64encode(head.encode())
                told += json.dumps(head).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status < 300 else "text/plain")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_PUT = do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call(name: str, options: str) -> str:
    url = "" if "connection:" in options else 'url: "${FAR}", '
    return (
        f"  {name}:\n    from: {{http: /{name}/:status}}\n    steps:\n"
        f'      - call: {{http: {{{url}path: "/echo/{{{{ path.status }}}}", {options}}}}}\n'
    )


ROUTES = "".join([
    call("basic", "connection: crm"),
    call("bearer", 'auth: {bearer: "${file:secrets/bearer}"}'),
    call("key", 'auth: {api_key: {key: "${k8s:crm/key}"}}'),
    call("hmac", 'auth: {hmac: {secret: "${HOOK_SIGNING}", form: stripe}}'),
    call("vault_hmac", 'auth: {hmac: {secret: "${vault:kv/crm#hook}"}}'),
    call("oauth", 'auth: {oauth2: {token_url: "${FAR}/token/401", client_id: bus, '
                  'client_secret: "${vault:kv/crm#secret}"}}'),
    call("oauth_body", 'auth: {oauth2: {token_url: "${FAR}/token/400", client_id: bus, '
                       'client_secret: "${OAUTH_BODY_SECRET}", client_auth: body}}'),
    call("oauth_key", 'auth: {oauth2: {token_url: "${FAR}/token/500", client_id: bus, '
                      'private_key: "${file:secrets/key.pem}", algorithm: ES256}}'),
    call("aws", 'auth: {aws_sigv4: {service: s3, region: eu-central-1, access_key_id: AKID, '
                'secret_access_key: "${AWS_KEY}", session_token: "${AWS_SESSION}"}}'),
    call("query", 'query: {api_key: "${QUERY_KEY}"}'),
    call("header", 'headers: {X-Partner: "${PARTNER_TOKEN}"}'),
    call("proxy", 'proxy: "http://bus:${PROXY_PASSWORD}@127.0.0.1:1"'),
])  # fmt: skip

MORE = """
  limited:
    from: {http: /limited}
    rate_limit: 1000/1m
  later:
    from: {http: {path: /later/:status, auth: partners}}
    accept: durable
    retry: {attempts: 2, backoff: 1ms}
    steps:
      - call: {http: {connection: crm, path: "/echo/{{ path.status }}"}}
  soap:
    from: {http: /soap/:status}
    steps:
      - call:
          soap:
            wsdl: partner.wsdl
            operation: getPartner
            url: "${FAR}/echo/500"
            security: {username: bus, password: "${WSSE_PASSWORD}", type: text}
  soap_digest:
    from: {http: /soap_digest/:status}
    steps:
      - call:
          soap:
            wsdl: partner.wsdl
            operation: getPartner
            url: "${FAR}/echo/400"
            security: {username: bus, password: "${WSSE_DIGEST}", type: digest}
  hosted:
    from: {soap: {wsdl: partner.wsdl, path: /hosted, security: {users: {ada: "${ADA_PASSWORD}"}}}}
    steps:
      - set: {body: "1 / 0"}
  hooked:
    from: {http: {path: /hooked/:status, auth: hooks}}
  publish:
    from: {http: /publish/:status}
    steps:
      - send: {amqp: {url: "amqp://bus:${BROKER_PASSWORD}@127.0.0.1:1/", queue: q, timeout: 300ms}}
  consume:
    from: {amqp: {url: "amqp://bus:${BROKER_PASSWORD}@127.0.0.1:1/", queue: q}}
  crash:
    from: {http: /crash/:status}
    steps:
      - python: {function: "crash:now", options: {token: "${CRASH_TOKEN}"}}
  failing:
    from: {http: /failing/:status}
    steps:
      - set: {body: "'${SET_SECRET}'.missing.more / 0"}
"""

HEAD = """
listen: {{port: {port}, auth: public}}
admin: {{port: {admin}}}
auth:
  partners: {{api_keys: {{file: keys.yaml, header: X-Partner-Key}}}}
  hooks: {{hmac: {{secret: "${{INBOUND_HOOK}}", header: X-Hub-Signature-256}}}}
store: {{path: bus.db}}
trace: {{sample: 1, bodies: true}}
redis: {{url: "redis://:${{REDIS_PASSWORD}}@127.0.0.1:1/0"}}
secrets:
  kubernetes: mounted
  refresh: never
  vault: {{url: "{vault}", approle: {{role_id: {role}, secret_id: "${{VAULT_SECRET_ID}}"}}}}
connections:
  crm:
    http: {{url: "${{FAR}}", auth: {{basic: {{username: bus, password: "${{CRM_PASSWORD}}"}}}}}}
routes:
"""

STORE = """
store: {{url: "postgresql://bus:${{STORE_PASSWORD}}@127.0.0.1:1/bus"}}
listen: {{port: {port}}}
admin: {{enabled: false}}
routes: {{a: {{from: {{http: /a}}, accept: durable, steps: [{{log: a}}]}}}}
"""

MISTAKES = """
  b1: {from: {http: {path: "${CRM_PASSWORD}"}}, steps: [{call: {http: {url: "${CRM_PASSWORD}"}}}]}
  b2: {from: {http: /b2}, steps: [{call: {http: {url: "http://x", timeout: "${BROKER_PASSWORD}"}}}]}
  b3: {from: {http: /b3}, steps: [{filter: {when: "${SET_SECRET} ("}}, {log: "{{ ${AWS_KEY} "}]}
  b4: {from: {http: /b4}, steps: [{transform: {jinja: "${WSSE_PASSWORD}"}}]}
  b5: {from: {http: /b5}, steps: [{call: {http: {connection: "${PARTNER_TOKEN}"}}}]}
  b6: {from: {http: /b6}, steps: [{run: "${HOOK_SIGNING}"}, {convert: "${ADA_PASSWORD}"}]}
  b7: {from: {http: /b7}, steps: [{validate: {json_schema: "${CRASH_TOKEN}"}}]}
  b8: {from: {http: "/b8/${QUERY_KEY}/:a/:a"}, retry: "${AWS_SESSION}"}
  b9: {from: {http: /b9}, steps: [{call: {http: {url: "ftp://x", auth: {bearer: "${AWS_SESSION}"}}}}]}
  c1: {from: {http: /c1}, steps: [{call: {http: {url: "http://u:${PROXY_PASSWORD}@x/"}}}]}
  c2: {from: {http: /c2}, steps: [{call: {http: {url: "http://x/${CRM_PASSWORD}"}}}]}
  c3: {from: {http: /c3}, steps: [{call: {http: {url: "http://x/", proxy: "${REDIS_PASSWORD}"}}}]}
  c4: {from: {http: /c4}, steps: [{send: {amqp: {url: "http://${BROKER_PASSWORD}", queue: q}}}]}
  c5: {from: {http: /c5}, steps: [{call: {http: {url: "http://x", auth: {bearer: "${vault:kv/crm#no}"}}}}]}
  c6: {from: {http: /c6}, steps: [{call: {http: {url: "http://x", headers: {"X-A": "{{ body.${OAUTH_BODY_SECRET}( }}"}}}}]}
  c7: {from: {schedule: {cron: "${STORE_PASSWORD}"}}}
  c8: {from: {file: {folder: "${VAULT_SECRET_ID}", pattern: "["}}, steps: [{map: {a: "${SET_SECRET}("}}]}
"""  # noqa: E501

CRASH = '''
"""What somebody wrote at five to five."""


def now(envelope, options):
    password = options["token"]
    raise ValueError(f"no luck with {password} at {envelope.headers!r}")
'''

SOAP = """<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header>
<w:Security xmlns:w="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd">
<w:UsernameToken><w:Username>ada</w:Username><w:Password>%s</w:Password></w:UsernameToken>
</w:Security></s:Header><s:Body><getPartner xmlns="urn:example:partners:v1"><id>1</id></getPartner>
</s:Body></s:Envelope>"""


# --- looking for them ----------------------------------------------------------------------------

_TOKEN = re.compile(r"[A-Za-z0-9+/_-]{12,}")


def _variants(output: str) -> Iterator[str]:
    """An output as it is, and with each way of spelling undone."""
    yield output
    yield unquote_plus(output)
    yield html.unescape(output)
    plain = output.replace('\\"', '"').replace("\\/", "/")
    yield re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), plain)
    raw = bytearray()
    for token in dict.fromkeys(_TOKEN.findall(output)):
        text = token.translate(str.maketrans("-_", "+/"))
        for start in range(4):
            part = text[start:]
            part = part[: len(part) - (len(part) % 4 == 1)]
            raw += base64.b64decode(part + "=" * (-len(part) % 4)) + b"\n"
    yield raw.decode("utf-8", "replace")


def leaks(outputs: dict[str, list[str]], secrets: list[str]) -> list[str]:
    """Which of them is where."""
    found = []
    for name, texts in outputs.items():
        variants = list(_variants("\n".join(texts)))
        found += [
            f"{name}: {secret}: ...{text[max(0, text.index(secret) - 120) :][:240]!r}"
            for secret in secrets
            for text in variants
            if secret in text
        ]
    return found


def test_they_would_be_found() -> None:
    for secret in (*OURS, *THEIRS):
        for text in (
            secret, quote(secret, safe=""), json.dumps(secret), html.escape(secret),
            base64.b64encode(f"x:{secret}yz".encode()).decode(),
            base64.urlsafe_b64encode(f"name:{secret}".encode()).decode(),
        ):  # fmt: skip
            assert leaks({"there": [f"a {text}; b"]}, [secret]), (secret, text)


# --- the bus -------------------------------------------------------------------------------------


class Run:
    """A bus with all secrets, and everything that came out of it, by where."""

    def __init__(self, folder: Path, process: Process, port: int, admin: int) -> None:
        self.folder = folder
        self.process = process
        self.port = port
        self.admin = admin
        self.outputs: dict[str, list[str]] = {}

    def note(self, where: str, text: str | bytes) -> None:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        self.outputs.setdefault(where, []).append(text)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        secret = {"password": IN_MESSAGES["body"], "id": 1}
        answer = request(
            "POST", f"http://127.0.0.1:{self.port}{path}?token={IN_MESSAGES['query']}",
            secret if body is None else body, {**CALLERS, **headers},
        )  # fmt: skip
        self.note("callers", f"{answer.status} {answer.headers}\n{answer.body.decode()}")
        return answer

    def ask(self, path: str, method: str = "GET", where: str = "admin") -> Answer:
        answer = request(method, f"http://127.0.0.1:{self.admin}{path}")
        self.note(where, f"{method} {path} {answer.status}\n{answer.body.decode()}")
        return answer

    def told(self, *command: str) -> str:
        """What a command writes."""
        done = CliRunner().invoke(app, command)
        self.note(f"esb {command[0]}", done.output + repr(done.exception))
        return done.output


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Run]:
    port, admin, other_port = free_ports(3)
    (folder / "secrets").mkdir()
    for name, content in FILES.items():
        (folder / "secrets" / name).write_text(content)
    (folder / "mounted" / "crm").mkdir(parents=True)
    for name, content in MOUNTED.items():
        (folder / "mounted" / "crm" / name).write_text(content)
    (folder / "python").mkdir()
    (folder / "python" / "crash.py").write_text(CRASH)
    digest = hashlib.sha256(KNOWN_BY["X-Partner-Key"].encode()).hexdigest()
    (folder / "keys.yaml").write_text(f"keys: [{{name: partner, sha256: {digest}}}]")
    shutil.copy(PROJECT / "examples" / "legacy" / "partner.wsdl", folder)
    with fake_vault() as vault, far_side() as far:
        vault.kv2["kv/crm"] = VAULT
        vault.secret_id = ENVIRON["VAULT_SECRET_ID"]
        head = HEAD.format(port=port, admin=admin, vault=vault.url, role=ROLE)
        (folder / "bus.yaml").write_text(head + ROUTES + MORE)
        (folder / "store.yaml").write_text(STORE.format(port=other_port))
        environ = {**ENVIRON, "FAR": far}
        with (
            Process([ESB, "run", "store.yaml", *options], cwd=folder, environ=environ) as storeless,
            Process([ESB, "run", "bus.yaml", *options], cwd=folder, environ=environ) as process,
            pytest.MonkeyPatch.context() as patch,
        ):
            process.wait_for(f"http://127.0.0.1:{port}/healthz")
            process.until(lambda: "the bus is up" in process.output)
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.chdir(folder)
            run = Run(folder, process, port, admin)
            yield run
            run.note("without a store", storeless.output)


def happen(run: Run) -> None:
    """Everything that can."""
    names = re.findall(r"^  (\w+):$", ROUTES + MORE, re.MULTILINE)
    recorded = threading.Thread(target=run.ask, args=(
        "/routes/basic/recording?limit=2", "GET", "recorded"))  # fmt: skip
    recorded.start()
    run.process.until(lambda: "basic" in run.ask("/routes").body.decode())
    for name in names:
        for status in ("200", "400", "401", "500"):
            if name not in ("hosted", "consume", "limited"):
                # To a route that knows nobody by it, it is a header like any other.
                run.post(f"/{name}/{status}", **(KNOWN_BY if name == "later" else {}))
    run.post("/limited")
    run.post("/basic/200", b'{"password": "' + IN_MESSAGES["body"].encode())  # no JSON, cut off
    run.post("/no/such/path")
    for password in (ENVIRON["ADA_PASSWORD"], IN_MESSAGES["wsse"]):
        run.post("/hosted", (SOAP % password).encode(), **{"Content-Type": "text/xml"})
    run.process.until(lambda: len(run.ask("/dead").json) >= 3)
    run.note("proc", (Path("/proc") / str(run.process.pid) / "cmdline").read_bytes())
    recorded.join()


def look(run: Run) -> None:
    """Everything that can be asked, and everything that was kept."""
    good = (run.folder / "bus.yaml").read_text()
    with (run.folder / "bus.yaml").open("a") as file:
        file.write(MISTAKES)
    refused = run.ask("/reload", "POST")
    assert refused.status == 422, refused.body
    assert len(refused.json["diagnostics"]) > 15
    run.told("check", "bus.yaml")
    run.told("check", "--vault", "--json", "bus.yaml")
    (run.folder / "bus.yaml").write_text(good)
    assert run.ask("/reload", "POST").status == 200
    for path in ("/", "/metrics", "/healthz", "/readyz", "/configuration", "/versions",
                 "/versions/1", "/versions/1/files/bus.yaml", "/endpoints", "/channels", "/store",
                 "/messages?channel=dead", "/openapi.json"):  # fmt: skip
        run.ask(path)
    dead = run.ask("/dead").json
    for one in dead:
        run.ask(f"/dead/{quote(str(one['key']), safe='')}")
        run.ask(f"/messages/{quote(one['id'], safe='')}/traces")
        run.ask(f"/messages/{quote(one['id'], safe='')}/story")
    url = f"http://127.0.0.1:{run.admin}"
    for command in (
        ["graph", "bus.yaml"], ["graph", "--svg", "bus.yaml"], ["list", "sections"], ["schema"],
        ["dead", "list", "--url", url], ["dead", "show", str(dead[0]["key"]), "--url", url],
        ["why", dead[0]["id"], "--url", url], ["versions", "list", "--url", url],
        ["versions", "show", "1", "--url", url],
    ):  # fmt: skip
        run.told(*command)
    for name in re.findall(r"^  (\w+):$", ROUTES + MORE, re.MULTILINE):
        assert f"{name}:" in run.told("explain", name, "--project", "bus.yaml")
    other = ["check", "store.yaml"], ["graph", "store.yaml"], ["explain", "a", "-p", "store.yaml"]
    for command in other:
        run.told(*command)
    run.told("store", "backup", str(run.folder / "copy.db"), "--store", "bus.db", "--force")
    assert run.process.stop() == 0
    run.note("logs", run.process.output)
    for file in sorted(run.folder.rglob("*")):
        kept = {"secrets", "mounted"} & set(file.relative_to(run.folder).parts)
        if file.is_file() and not kept:
            where = "messages" if ".db" in file.name else "files"
            run.note(where, file.read_bytes())


HAPPENED = ("message failed", "ValueError", "crash", "not reloaded", "127.0.0.1", "***")


def test_no_secret_is_anywhere(tmp_path: Path) -> None:
    with running(tmp_path, "--json") as run:
        happen(run)
        look(run)
    outputs = run.outputs
    for where in ("callers", "admin", "recorded", "files", "messages", "proc", "esb check"):
        assert outputs[where], where
    assert [word for word in HAPPENED if word not in outputs["logs"][0]] == []
    assert leaks(outputs, [*OURS, *THEIRS]) == []
    # What a sender put into his message is in what keeps messages and shows dead letters, and in
    # the answers that he gets.
    held = {"messages", "admin", "callers", "esb dead"}
    shown = {where: texts for where, texts in outputs.items() if where not in held}
    assert leaks(shown, list(IN_MESSAGES.values())) == []


def test_nor_in_logs_for_people(tmp_path: Path) -> None:
    with running(tmp_path, "--log-level=debug") as run:
        happen(run)
        with (run.folder / "bus.yaml").open("a") as file:
            file.write(MISTAKES)
        run.ask("/reload", "POST")
        assert run.process.stop() == 0
        run.note("logs", run.process.output)
    assert [word for word in HAPPENED if word not in run.outputs["logs"][0]] == []
    assert leaks(run.outputs, [*OURS, *THEIRS]) == []
