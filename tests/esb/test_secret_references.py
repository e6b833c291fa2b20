"""`${k8s:...}` and `${vault:...}`: what they stand for, what is said when they stand for nothing,
and what a running bus does when a secret is another one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.vault import JWT, ROLE, SECRET_ID, FakeVault, fake_vault
from support.waiting import until
from typer.testing import CliRunner

from esb.cli import app
from esb.config import Project, load
from esb.secrets import References

from .test_reload_live import HEAD, live


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with fake_vault() as one:
        one.kv2["kv/crm/api"] = {"token": "from-the-vault", "port": 8443, "more": {"a": 1}}
        one.kv2["team/kv/crm"] = {"token": "of-the-team"}
        one.kv2["kv/gone"] = None  # type: ignore[assignment]
        one.kv1["old/crm"] = {"token": "version-one"}
        yield one


def mounted(folder: Path, **keys: str) -> Path:
    """A Secret as the kubelet mounts it: files are links through `..data`, which is swapped."""
    at = folder / "mounted" / "crm"
    at.mkdir(parents=True, exist_ok=True)
    version = at / f"..{len(list(at.iterdir()))}"
    version.mkdir()
    for name, value in keys.items():
        (version / name).write_text(value + "\n")
        if not (at / name).is_symlink():
            (at / name).symlink_to(Path("..data") / name)
    new = at / "..data_tmp"
    new.symlink_to(version.name)
    new.replace(at / "..data")
    return folder / "mounted"


def loaded(folder: Path, text: str, *, asks: bool = True, **environ: str) -> Project:
    file = folder / "all.yaml"
    file.write_text(textwrap.dedent(text))
    return load([file], environ=References(environ, asks=asks), root=folder)


def told(project: Project) -> list[str]:
    return [
        f"{Path(one.file).name}:{one.line}:{one.column}: {one.message}"
        for one in project.diagnostics
    ]


def sections(vault: FakeVault, how: str) -> str:
    return f"secrets: {{vault: {{url: '{vault.url}', mounts: {{team/kv: 2, old: 1}}, {how}}}}}\n"


def bearers(*references: str) -> str:
    """Routes that call with these as their tokens."""
    lines = [
        f"  r{i}: {{from: {{queue: q{i}}}, steps: [{{send: "
        f'{{http: {{url: "http://x/", auth: {{bearer: "${{{one}}}"}}}}}}}}]}}'
        for i, one in enumerate(references)
    ]
    return "\n".join(["routes:", *lines]) + "\n"


async def test_a_mounted_secret_is_read_through_the_link_that_is_swapped(tmp_path: Path) -> None:
    root = mounted(tmp_path, token="first", dotted="x")
    project = loaded(
        tmp_path, f"secrets: {{kubernetes: {root}}}\n{bearers('k8s:crm/token')}"
    ).check()
    assert project.references.resolved == {"k8s:crm/token": "first"}
    assert project.references.changed() == []
    mounted(tmp_path, token="second", dotted="x")
    assert project.references.changed() == ["k8s:crm/token"]
    assert not any(b"first" in (content or b"") for content in project.sources.values())


@pytest.mark.parametrize("form", ["  {0}\n  {1}", "{{{0}, {1}}}", "'secrets' : {2}\n{1}"])
async def test_the_section_is_found_however_it_is_written(tmp_path: Path, form: str) -> None:
    mounted(tmp_path, token="first")
    route = "routes: {a: {from: {queue: '${k8s:crm/token}'}}}"
    text = form.format("secrets: {kubernetes: mounted}", route, "{kubernetes: mounted}")
    project = loaded(tmp_path, text).check()  # and a relative folder is one of the project
    assert project.references.resolved == {"k8s:crm/token": "first"}


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("k8s:crm/nothing", "the Secret of ${k8s:crm/nothing} is not mounted in"),
        ("k8s:../../etc/passwd", "names no Secret and its key"),
        ("k8s:crm/..data", "names no Secret and its key"),
        ("k8s:crm", "names no Secret and its key"),
        ("valut:kv/crm#token", "nothing is looked up by 'valut:'; there are ${file:...}, ${k8s:"),
        ("vault:kv/crm#token", "there is no vault for ${vault:kv/crm#token}"),
    ],
)
async def test_what_stands_for_nothing_is_told_at_its_place(
    tmp_path: Path, reference: str, problem: str
) -> None:
    root = mounted(tmp_path, token="first")
    project = loaded(tmp_path, f"secrets: {{kubernetes: {root}}}\n{bearers(reference)}")
    [one] = told(project)
    assert one.startswith("all.yaml:3:")
    assert problem in one


@pytest.mark.parametrize(
    "how",
    ["token: root-token", f"approle: {{role_id: {ROLE}, secret_id: '{SECRET_ID}'}}", "kubernetes"],
)
async def test_a_vault_is_asked_however_one_logs_in(
    tmp_path: Path, vault: FakeVault, how: str
) -> None:
    if how == "kubernetes":
        (tmp_path / "jwt").write_text(JWT + "\n")
        how = f"kubernetes: {{role: bus, jwt: '{tmp_path}/jwt'}}"
    names = ["vault:kv/crm/api#token", "vault:team/kv/crm#token", "vault:old/crm#token",
             "vault:kv/crm/api#port"]  # fmt: skip
    project = loaded(tmp_path, sections(vault, how) + bearers(*names)).check()
    values = ["from-the-vault", "of-the-team", "version-one", "8443"]
    assert project.references.resolved == dict(zip(names, values, strict=True))
    assert vault.asked.count("GET /v1/kv/data/crm/api") == 1  # two fields of one secret


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("vault:kv/other#token", "there is no such secret"),
        ("vault:kv/gone#token", "there is no such secret"),
        ("vault:kv/crm/api#tokne", "the field 'tokne' is not in the secret"),
        ("vault:kv/crm/api#more", "the field 'more' is no text"),
        ("vault:kv/secret#token", "permission denied"),
        ("vault:kv/crm/api", "names no field of a secret"),
        ("vault:kv/../sys/x#token", "names no field of a secret"),
    ],
)
async def test_what_a_vault_does_not_give_is_told_at_its_place(
    tmp_path: Path, vault: FakeVault, reference: str, problem: str
) -> None:
    vault.forbidden.add("kv/secret")
    project = loaded(tmp_path, sections(vault, "token: root-token") + bearers(reference))
    [one] = told(project)
    assert one.startswith("all.yaml:3:")
    assert problem in one
    assert "${" + reference + "}" in one
    assert "root-token" not in one


async def test_a_vault_that_is_sealed_wrong_or_away_is_told(
    tmp_path: Path, vault: FakeVault
) -> None:
    text = sections(vault, "token: '${TOKEN}'") + bearers("vault:kv/crm/api#token")
    [one] = told(loaded(tmp_path, text, TOKEN="wrong-token"))
    assert one.endswith("permission denied")
    vault.sealed = True
    [one] = told(loaded(tmp_path, text, TOKEN="root-token"))
    assert one.endswith("the vault is sealed, or in maintenance")
    away = text.replace(vault.url, "http://127.0.0.1:1")
    [one] = told(loaded(tmp_path, away, TOKEN="root-token"))
    assert one.endswith("the vault cannot be reached (ConnectionError)")


async def test_a_vault_of_a_namespace_is_asked_in_it(tmp_path: Path, vault: FakeVault) -> None:
    vault.namespace = "bus"
    text = sections(vault, "token: root-token, namespace: bus")
    loaded(tmp_path, text + bearers("vault:kv/crm/api#token")).check()


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("token: a, approle: {role_id: b, secret_id: c}", "one of token, approle or kubernetes"),
        ("token: '${vault:kv/crm#token}'", "what opens the vault cannot lie in it"),
        ("tokn: a", "unknown key 'tokn'"),
    ],
)
async def test_a_vault_that_is_set_up_wrong_is_one_mistake(
    tmp_path: Path, vault: FakeVault, how: str, problem: str
) -> None:
    project = loaded(tmp_path, sections(vault, how) + bearers("vault:kv/crm/api#token"))
    assert len(told(project)) == 1, told(project)
    assert problem in told(project)[0]
    assert vault.asked == []


async def test_a_check_asks_no_vault_unless_it_is_told_to(
    tmp_path: Path, vault: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        sections(vault, "token: root-token")
        + bearers("vault:kv/crm/api#token").replace('"http://x/"', '"${vault:kv/no#url}"')
    )
    monkeypatch.chdir(tmp_path)
    for command in (["check"], ["check", "--no-env"], ["list"], ["graph"], ["explain", "r0"]):
        done = CliRunner().invoke(app, [command[0], *command[1:], "all.yaml"][: 2 + len(command)])
        assert "Traceback" not in done.output
        assert vault.asked == [], command
    done = CliRunner().invoke(app, ["check", "all.yaml"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["check", "--vault", "all.yaml"])
    assert "there is no such secret" in done.output
    assert vault.asked


@pytest.mark.parametrize("environ", [{}, None])
def test_a_slip_in_a_reference_to_a_vault_is_found_without_asking(
    tmp_path: Path, environ: dict[str, str] | None
) -> None:
    vault = "secrets: {vault: {url: 'https://vault.example', token: root-token}}\n"
    file = tmp_path / "all.yaml"
    file.write_text(vault + bearers("vault:kv/crm"))
    found = told(load([file], environ=References(environ), root=tmp_path))
    assert len(found) == 1, found
    assert "names no field" in found[0]


@pytest.mark.parametrize("environ", [{}, None])
@pytest.mark.parametrize(
    ("section", "told_of"),
    [
        ("", "there is no vault for ${vault:kv/crm#token}"),
        ("secrets: {kubernetes: mounted}\n", "there is no vault for ${vault:kv/crm#token}"),
        ("secrets: {vault: {url: 'https://vault.example', token: a}}\n", ""),
        ("secrets: {vault: {url: 'https://vault.example', tokn: a}}\n", "unknown key 'tokn'"),
        ("secrets: {vault: {url: ftp://x, token: a}}\n", "url is https://host:port"),
        ("secrets: nothing\n", ""),
        ("secrets: [\n", ""),
    ],
)
def test_a_vault_that_is_nowhere_is_missed_without_asking(
    tmp_path: Path, environ: dict[str, str] | None, section: str, told_of: str
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(section + bearers("vault:kv/crm#token"))
    found = told(load([file], environ=References(environ), root=tmp_path))
    if told_of:
        assert len(found) == 1, found
        assert told_of in found[0]
    else:
        assert not [one for one in found if "there is no vault" in one]


async def test_a_session_is_renewed_and_begun_anew_when_it_is_over(
    tmp_path: Path, vault: FakeVault
) -> None:
    vault.lease = 0
    how = f"approle: {{role_id: {ROLE}, secret_id: {SECRET_ID}}}"
    project = loaded(tmp_path, sections(vault, how) + bearers("vault:kv/crm/api#token")).check()
    vault.asked.clear()
    assert project.references.changed() == []
    assert vault.asked == ["POST /v1/auth/token/renew-self", "GET /v1/kv/data/crm/api"]
    vault.asked.clear()
    vault.tokens.clear()
    assert project.references.changed() == []
    assert vault.asked[:2] == ["POST /v1/auth/token/renew-self", "POST /v1/auth/approle/login"]
    vault.lease = 3600
    project.references.changed()
    vault.tokens.clear()  # revoked, long before it ends
    vault.asked.clear()
    assert project.references.changed() == []
    assert "POST /v1/auth/approle/login" in vault.asked


async def test_a_reload_goes_on_with_the_session_that_there_is(
    tmp_path: Path, vault: FakeVault
) -> None:
    how = f"approle: {{role_id: {ROLE}, secret_id: {SECRET_ID}}}"
    text = sections(vault, how) + bearers("vault:kv/crm/api#token")
    for value in ("one", "two", "two"):
        vault.kv2["kv/crm/api"] = {"token": value}
        project = loaded(tmp_path, text).check()
        assert project.references.resolved == {"vault:kv/crm/api#token": value}
    assert vault.asked.count("POST /v1/auth/approle/login") == 1
    loaded(tmp_path, text.replace(str(vault.url), f"{vault.url}/")).check()
    assert vault.asked.count("POST /v1/auth/approle/login") == 2


async def test_a_reload_says_whether_secrets_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb.service._LOOK_AGAIN", 0.02)
    folder = mounted(tmp_path, token="first")
    text = f"""
        secrets: {{refresh: never, kubernetes: {folder}}}
        routes:
          a:
            from: {{http: {{path: /a, method: GET}}}}
            steps: [{{set: {{body: "'${{k8s:crm/token}}'"}}}}]
    """
    (tmp_path / "routes").mkdir()
    file = tmp_path / "routes" / "all.yaml"
    file.write_text(HEAD + textwrap.dedent(text))
    async with live(tmp_path) as bus:
        assert await bus.get("/a") == (200, '"first"')
        file.write_text(file.read_text().replace("never", "50ms"))
        assert (await bus.service.reload())["reloaded"]
        mounted(tmp_path, token="second")

        async def is_second() -> bool:
            return await bus.get("/a") == (200, '"second"')

        await until(is_second)


async def test_a_secret_that_is_another_one_is_a_reload(tmp_path: Path, vault: FakeVault) -> None:
    text = f"""
        secrets: {{refresh: 50ms, vault: {{url: "{vault.url}", token: root-token}}}}
        routes:
          a:
            from: {{http: {{path: /a, method: GET}}}}
            steps: [{{set: {{body: "'${{vault:kv/crm/api#token}}'"}}}}]
    """
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "all.yaml").write_text(HEAD + textwrap.dedent(text))
    async with live(tmp_path) as bus:
        assert await bus.get("/a") == (200, '"from-the-vault"')
        vault.kv2["kv/crm/api"] = {"token": "rotated"}

        async def now() -> str:
            return (await bus.get("/a"))[1]

        async def is_rotated() -> bool:
            return await now() == '"rotated"'

        await until(is_rotated)
        # While the vault is away what was read stays.
        vault.sealed = True
        asked = len(vault.asked)
        await until(lambda: len(vault.asked) > asked + 1)
        assert await now() == '"rotated"'
        assert (await bus.told("GET", "/configuration"))["current"] is True
