"""`${vault:...}` against a real server, OpenBao: log-ins, both versions of KV, namespaces, what is
refused, and what a running bus does when the server changes its mind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hvac  # type: ignore[import-untyped]
import pytest
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey
from openbao import OpenBao, available

from .test_reload_live import live
from .test_secret_references import bearers, loaded, told

pytestmark = pytest.mark.skipif(not available(), reason="OpenBao comes for Linux on x86-64 alone")

_KEY = ECKey.generate_key("P-256")
POLICY = """
path "kv/data/*" { capabilities = ["read"] }
path "team/kv/data/*" { capabilities = ["read"] }
path "old/*" { capabilities = ["read"] }
path "kv/data/closed" { capabilities = ["deny"] }
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OpenBao]:
    with OpenBao() as one:
        root = admin(one)
        for mount, version in (("kv", "2"), ("team/kv", "2"), ("old", "1")):
            root.sys.enable_secrets_engine("kv", path=mount, options={"version": version})
        root.sys.create_or_update_policy("bus", POLICY)
        crm = {"token": "from-the-vault", "port": 8443, "more": {"a": 1}}
        root.secrets.kv.v2.create_or_update_secret("crm/api", crm, mount_point="kv")
        for path in ("closed", "gone", "destroyed"):
            root.secrets.kv.v2.create_or_update_secret(path, {"token": "x" * 9}, mount_point="kv")
        root.secrets.kv.v2.delete_latest_version_of_secret("gone", mount_point="kv")
        root.secrets.kv.v2.destroy_secret_versions("destroyed", [1], mount_point="kv")
        team = {"token": "of-the-team"}
        root.secrets.kv.v2.create_or_update_secret("crm", team, mount_point="team/kv")
        root.secrets.kv.v1.create_or_update_secret(
            "crm", {"token": "version-one"}, mount_point="old"
        )
        root.sys.enable_auth_method("approle")
        root.auth.approle.create_or_update_approle("bus", token_policies=["bus"], token_ttl="1h")
        yield one


def admin(server: OpenBao, namespace: str | None = None) -> Any:
    client = hvac.Client(server.url, server.token, verify=str(server.ca), namespace=namespace)
    return client


def section(server: OpenBao, how: str, more: str = "") -> str:
    vault = f"{{url: '{server.url}', ca: '{server.ca}', mounts: {{team/kv: 2, old: 1}}, {how}}}"
    return f"secrets: {{vault: {vault}{more}}}\n"


def token(server: OpenBao, **options: Any) -> str:
    made = admin(server).auth.token.create(policies=["bus"], **options)
    return str(made["auth"]["client_token"])


def approle(server: OpenBao) -> str:
    role = admin(server).auth.approle
    role_id = role.read_role_id("bus")["data"]["role_id"]
    secret_id = role.generate_secret_id("bus")["data"]["secret_id"]
    return f"approle: {{role_id: {role_id}, secret_id: {secret_id}}}"


@contextmanager
def pods() -> Iterator[str]:
    """The part of Kubernetes' API that says whose token it is (TokenReview)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            good = json.loads(raw)["spec"]["token"].count(".") == 2
            user = {"username": "system:serviceaccount:shop:bus", "uid": "1", "groups": []}
            status = {"authenticated": good, "user": user, "audiences": []}
            body = json.dumps({"kind": "TokenReview", "status": status}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{api.server_port}"
    finally:
        api.shutdown()
        thread.join()
        api.server_close()


def kubernetes(server: OpenBao, folder: Path, api: str) -> str:
    root = admin(server)
    root.sys.enable_auth_method("kubernetes")
    config = {
        "kubernetes_host": api,
        "disable_local_ca_jwt": True,
        "kubernetes_ca_cert": server.ca.read_text(),  # nobody asks by TLS here
        "token_reviewer_jwt": jwt.encode({"alg": "ES256"}, {"sub": "reviewer"}, _KEY),
    }
    root.write_data("auth/kubernetes/config", data=config)
    root.auth.kubernetes.create_role(
        "bus", bound_service_account_names="bus", bound_service_account_namespaces="shop",
        policies="bus",
    )  # fmt: skip
    account = {"namespace": "shop", "serviceaccount": {"name": "bus", "uid": "1"}}
    times = {"iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 4_102_444_800}
    claims = {"sub": "system:serviceaccount:shop:bus", "kubernetes.io": account, **times}
    shown = folder / "jwt"
    shown.write_text(jwt.encode({"alg": "ES256"}, claims, _KEY) + "\n")
    return f"kubernetes: {{role: bus, jwt: '{shown}'}}"


@pytest.mark.parametrize("how", ["token", "approle", "kubernetes"])
async def test_it_is_asked_however_one_logs_in(tmp_path: Path, server: OpenBao, how: str) -> None:
    names = ["vault:kv/crm/api#token", "vault:team/kv/crm#token", "vault:old/crm#token",
             "vault:kv/crm/api#port"]  # fmt: skip
    with pods() as api:
        way = {
            "token": lambda: f"token: {token(server)}",
            "approle": lambda: approle(server),
            "kubernetes": lambda: kubernetes(server, tmp_path, api),
        }[how]()
        project = loaded(tmp_path, section(server, way) + bearers(*names)).check()
    values = ["from-the-vault", "of-the-team", "version-one", "8443"]
    assert project.references.resolved == dict(zip(names, values, strict=True))


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("vault:kv/other#token", "there is no such secret"),
        ("vault:kv/gone#token", "there is no such secret"),
        ("vault:kv/destroyed#token", "there is no such secret"),
        ("vault:kv/crm/api#tokne", "the field 'tokne' is not in the secret"),
        ("vault:kv/crm/api#more", "the field 'more' is no text"),
        ("vault:kv/closed#token", "permission denied"),
        ("vault:sys/policies/acl/bus#policy", "permission denied"),
        ("vault:nowhere/crm#token", "permission denied"),
        ("vault:old/other#token", "there is no such secret"),
    ],
)
async def test_what_it_does_not_give_is_told_at_its_place(
    tmp_path: Path, server: OpenBao, reference: str, problem: str
) -> None:
    text = section(server, f"token: {token(server)}") + bearers(reference)
    [one] = told(loaded(tmp_path, text))
    assert one.startswith("all.yaml:3:")
    assert problem in one


async def test_who_may_not_ask_is_told_so_without_what_was_shown(
    tmp_path: Path, server: OpenBao
) -> None:
    role = approle(server)
    wrapped = admin(server).auth.token.create(policies=["bus"], wrap_ttl="60s")
    over = token(server)
    admin(server).auth.token.revoke(over)
    for how in (
        "token: no-such-token-of-it",
        f"token: {wrapped['wrap_info']['token']}",  # it opens a token, and nothing else
        f"token: {over}",
        role.replace("secret_id: ", "secret_id: 0"),
    ):
        found = told(loaded(tmp_path, section(server, how) + bearers("vault:kv/crm/api#token")))
        assert len(found) == 1, (how, found)
        assert "denied" in found[0] or "does not take" in found[0]
        assert how.rpartition(": ")[2].strip("}") not in found[0]


async def test_its_certificate_is_checked(tmp_path: Path, server: OpenBao) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    text = section(server, f"token: {token(server)}") + bearers("vault:kv/crm/api#token")
    [one] = told(loaded(tmp_path, text.replace(str(server.ca), "other.pem")))
    assert one.endswith("the vault cannot be reached (SSLError)")
    [one] = told(loaded(tmp_path, text.replace(f"ca: '{server.ca}', ", "")))
    assert one.endswith("the vault cannot be reached (SSLError)")


async def test_secrets_of_a_namespace_are_its_own(tmp_path: Path, server: OpenBao) -> None:
    admin(server).sys.create_namespace("shop")
    root = admin(server, "shop")
    root.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    root.sys.create_or_update_policy("bus", POLICY)
    shop = {"token": "of-the-shop"}
    root.secrets.kv.v2.create_or_update_secret("crm/api", shop, mount_point="kv")
    inside = root.auth.token.create(policies=["bus"])["auth"]["client_token"]
    text = section(server, f"token: {inside}, namespace: shop") + bearers("vault:kv/crm/api#token")
    found = loaded(tmp_path, text).check().references.resolved
    assert found == {"vault:kv/crm/api#token": "of-the-shop"}
    [one] = told(loaded(tmp_path, text.replace(", namespace: shop", "")))
    assert "permission denied" in one


async def test_a_session_that_is_over_is_begun_anew(tmp_path: Path, server: OpenBao) -> None:
    text = section(server, approle(server)) + bearers("vault:kv/crm/api#token")
    references = loaded(tmp_path, text).check().references
    root = admin(server)
    for accessor in root.list("auth/token/accessors")["data"]["keys"]:
        about = root.auth.token.lookup_accessor(accessor)["data"]
        if about["path"] == "auth/approle/login":
            root.auth.token.revoke_accessor(accessor)
    assert references.changed() == []
    changed = {"token": "another-one", "port": 1}
    root.secrets.kv.v2.create_or_update_secret("crm/api", changed, mount_point="kv")
    try:
        assert references.changed() == ["vault:kv/crm/api#token"]
    finally:
        first = {"token": "from-the-vault", "port": 8443, "more": {"a": 1}}
        root.secrets.kv.v2.create_or_update_secret("crm/api", first, mount_point="kv")


async def test_a_running_bus_lives_through_a_seal_and_takes_a_new_secret(tmp_path: Path) -> None:
    with OpenBao() as own:
        root = admin(own)
        root.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
        kv = root.secrets.kv.v2
        kv.create_or_update_secret("crm", {"token": "the-first-one"}, mount_point="kv")
        text = section(own, f"token: {own.token}", ", refresh: never") + bearers(
            "vault:kv/crm#token"
        )
        async with live(tmp_path, text) as bus:
            known = bus.service.project.references
            assert known.resolved == {"vault:kv/crm#token": "the-first-one"}
            root.sys.seal()
            status, answer = await bus.ask("POST", "/reload")
            assert status == 422
            assert "the vault is sealed" in json.dumps(answer)
            assert "the-first-one" not in json.dumps(answer)
            assert [r["state"] for r in await bus.told("GET", "/routes")] == ["running"]
            root.sys.submit_unseal_key(own.unseal_key)
            kv.create_or_update_secret("crm", {"token": "the-second-one"}, mount_point="kv")
            assert (await bus.told("POST", "/reload"))["changed"] == ["r0"]
            known = bus.service.project.references
            assert known.resolved == {"vault:kv/crm#token": "the-second-one"}
