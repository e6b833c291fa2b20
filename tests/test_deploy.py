"""Dockerfile and docker-compose.yml, as far as that goes without a container engine."""

from __future__ import annotations

import importlib.resources
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import setup
import yaml

from esb.config import load

PROJECT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]

INSTRUCTIONS = {
    *("CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with what they are given."""
    lines = [
        line
        for line in (PROJECT / "Dockerfile").read_text().splitlines()
        if not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line]
    return [(name, rest) for name, rest in found]


DOCKERFILE = instructions()
LAST_STAGE = max(i for i, (name, _) in enumerate(DOCKERFILE) if name == "FROM")


# --- the image -----------------------------------------------------------------------------------


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in DOCKERFILE} <= INSTRUCTIONS
    for name, rest in DOCKERFILE:
        if name in ("CMD", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list), "a shell would swallow the signals"


def test_images_and_tools_are_pinned() -> None:
    for name, rest in DOCKERFILE:
        if name == "FROM":
            image = rest.split()[0]
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", image), image
    (installed,) = [rest for name, rest in DOCKERFILE if "pip install" in rest]
    assert installed.endswith(f"uv=={setup.UV}")


def test_the_image_is_neither_root_nor_the_builder() -> None:
    last = DOCKERFILE[LAST_STAGE:]
    assert LAST_STAGE > 0
    (user,) = [rest for name, rest in last if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not any("pip install" in rest or "uv sync" in rest for _, rest in last)
    assert any(name == "HEALTHCHECK" for name, _ in last)


def test_it_runs_a_command_that_is_installed() -> None:
    (entry,) = [json.loads(rest) for name, rest in DOCKERFILE if name == "ENTRYPOINT"]
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry[0] in scripts


def test_what_is_copied_is_here_and_reaches_the_builder() -> None:
    let_through = {
        line[1:]
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    stages = re.findall(r"^FROM .* AS (\w+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    copied: set[str] = set()
    for name, rest in DOCKERFILE:
        if name == "COPY" and rest.startswith("--from="):
            assert rest.split()[0].removeprefix("--from=") in stages
        elif name == "COPY":
            copied.update(rest.split()[:-1])
    assert copied == let_through
    assert all((PROJECT / path).exists() for path in copied)


def test_what_it_runs_loads_in_its_environment() -> None:
    """Also what depends on where it listens: an admin port for everybody is refused."""
    environ: dict[str, str] = {}
    for name, rest in DOCKERFILE[LAST_STAGE:]:
        if name == "ENV":
            environ |= dict(one.split("=", 1) for one in rest.split())
    assert environ["ESB_HOST"] == "0.0.0.0"
    assert load([PROJECT / "routes"], environ=environ, root=PROJECT).diagnostics == []
    environ["ESB_ADMIN_HOST"] = "0.0.0.0"
    assert load([PROJECT / "routes"], environ=environ, root=PROJECT).diagnostics != []


# --- compose -------------------------------------------------------------------------------------


def test_compose_file_is_valid() -> None:
    """By the Compose Specification's own schema, which check-jsonschema carries."""
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema, cls=jsonschema.validators.validator_for(schema))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"bus": {"imagee": "x"}}}, schema)


def test_our_services_need_no_rights() -> None:
    assert OURS == ["bus", "legacy"]
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_what_is_published_is_for_this_machine_alone() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_everything_named_is_there() -> None:
    hosts = re.findall(r"(?:@|//)([a-z]+):\d+", json.dumps(SERVICES["bus"]["environment"]))
    assert sorted(hosts) == ["legacy", "rabbitmq"]
    assert set(hosts) <= set(SERVICES)
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (PROJECT / source).is_dir() if source[0] == "." else source in COMPOSE["volumes"]
    assert set(COMPOSE["volumes"]) == {"data", "rabbitmq"}


def test_each_service_tells_whether_it_is_well() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service or name == "bus"  # the image has the bus's own


def test_the_environment_is_what_the_routes_read() -> None:
    routes = "".join(path.read_text() for path in (PROJECT / "routes").glob("*.yaml"))
    server = (PROJECT / "examples/legacy/server.py").read_text()
    (image,) = [rest for name, rest in DOCKERFILE[LAST_STAGE:] if name == "ENV"]
    for name in [*SERVICES["bus"]["environment"], *re.findall(r"\b(ESB_\w+)=", image)]:
        assert f"${{{name}:-" in routes
    for name in SERVICES["legacy"]["environment"]:
        assert f'"{name}"' in server
