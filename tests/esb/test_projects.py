"""What larger projects share: profiles, defaults and policies, templates of routes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from esb.config import Project, load
from esb.route import Route

CRM = """
    templates:
      crm-feed:
        parameters:
          queue: {description: Where orders come from.}
          path: {default: /orders}
          most: {default: 4}
        route:
          description: "From ${queue} to the CRM"
          from: {queue: {name: "${queue}", concurrency: "${most}"}}
          steps:
            - send: {http: {url: "http://127.0.0.1:1${path}"}}
          retry: {attempts: 3}
"""


def project(folder: Path, profile: str = "", environ: Any = None, **files: str) -> Project:
    """Load files by their names, `_` for `/`."""
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return load([folder], environ=environ or {}, root=folder, profile=profile)


def told(found: Project, folder: Path) -> list[str]:
    return [str(d).replace(f"{folder}/", "") for d in found.diagnostics]


def routes(found: Project) -> dict[str, Route]:
    return {route.name: route for route in found.check().routes}


# --- templates


def test_a_route_is_made_from_a_template(tmp_path: Path) -> None:
    uses = """
        routes:
          orders: {use: crm-feed, with: {queue: orders}}
          returns:
            use: crm-feed
            with: {queue: returns, path: /returns, most: 2}
            retry: {attempts: 9}
            timeout: 5s
    """
    made = routes(project(tmp_path, crm=CRM, uses=uses))
    orders, returns = made["orders"], made["returns"]
    assert orders.options.description == "From orders to the CRM"
    assert orders.source.where == "queue orders"
    [sent] = [part for part in orders.outline.walk() if part.direction == "sink"]
    assert str(sent.options.url).endswith(":1/orders")
    [source] = [part for part in returns.outline.walk() if part.kind == "source"]
    assert (source.options.name, source.options.concurrency) == ("returns", 2)
    assert (orders.options.retry.attempts, returns.options.retry.attempts) == (3, 9)
    assert returns.options.timeout == 5
    # The route is where it is named; its parts are where they are written.
    assert (orders.outline.file, orders.outline.line) == (str(tmp_path / "uses.yaml"), 3)
    assert (sent.file, sent.line) == (str(tmp_path / "crm.yaml"), 12)


def test_a_parameter_may_be_anything(tmp_path: Path) -> None:
    template = """
        templates:
          t:
            parameters: {steps: {}, on: {default: {queue: in}}, text: {default: true}}
            route: {description: "is ${text}", from: "${on}", steps: "${steps}"}
        routes:
          a: {use: t, with: {steps: [{log: "$${kept}"}, {send: {queue: out}}]}}
    """
    made = routes(project(tmp_path, a=template))["a"]
    assert made.source.where == "queue in"
    assert made.options.description == "is true"
    steps = [part.name for part in made.outline.walk() if part.kind == "step"]
    assert steps == ["log", "send"]


def test_a_change_of_a_template_is_one_of_its_routes(tmp_path: Path) -> None:
    uses = "routes: {a: {use: crm-feed, with: {queue: a}}, b: {from: {queue: b}}}"
    before = routes(project(tmp_path, crm=CRM, uses=uses))
    after = routes(project(tmp_path, crm=CRM.replace("attempts: 3", "attempts: 4"), uses=uses))
    assert before["a"].fingerprint != after["a"].fingerprint
    assert before["b"].fingerprint == after["b"].fingerprint


def test_mistakes_with_templates(tmp_path: Path) -> None:
    uses = """
        routes:
          a: {use: crm-fed, with: {queue: a}}
          b:
            use: crm-feed
            with: {queu: b}
          c: {use: crm-feed}
          d: {with: {queue: d}}
          e:
            use: crm-feed
            with:
              queue: e
              most: many
          f: {use: crm-feed, with: {queue: [f]}}
    """
    assert told(project(tmp_path, crm=CRM, uses=uses), tmp_path) == [
        "crm.yaml:9:20: 'queue' is no text, so it cannot stand in one"
        " (used by 'f' at uses.yaml:14)",
        "uses.yaml:3:12: there is no template 'crm-fed' (did you mean 'crm-feed'?)",
        "uses.yaml:6:5: the parameter 'queue' of template 'crm-feed' is missing"
        " (is it what 'queu' is meant to be?)",
        "uses.yaml:6:12: template 'crm-feed' has no parameter 'queu' (did you mean 'queue'?)",
        "uses.yaml:7:7: the parameter 'queue' of template 'crm-feed' is missing"
        " (with: {queue: ...})",
        "uses.yaml:8:7: 'with' goes with 'use' (use: the name of a template)",
        "uses.yaml:13:13: must be a whole number (for template 'crm-feed' at crm.yaml:3)",
        "uses.yaml:14:36: must be a valid string (for template 'crm-feed' at crm.yaml:3)",
    ]


def test_mistakes_in_a_template_are_told_once_where_they_are(tmp_path: Path) -> None:
    template = """
        templates:
          t:
            parameters: {queue: {}, unused: {default: 1}}
            route:
              from: {queue: "${quue}"}
              steps:
                - filtr: body.x
                - filter: body.x = '${queue}'
        routes:
          a: {use: t, with: {queue: a}}
          b: {use: t, with: {queue: b}}
    """
    assert told(project(tmp_path, a=template), tmp_path) == [
        "a.yaml:4:29: nothing in the route uses the parameter 'unused'"
        ' (use it as "${unused}", or remove it)',
        "a.yaml:6:21: there is no parameter 'quue'"
        " (did you mean 'queue'?; used by 'a' at a.yaml:11)",
        "a.yaml:8:11: there is no step 'filtr' (did you mean 'filter'?; used by 'a' at a.yaml:11)",
        "a.yaml:9:19: = is no comparison (write `==`; used by 'a' at a.yaml:11)",
    ]


def test_files_of_a_template_lie_beside_it_and_those_of_a_parameter_beside_that(
    tmp_path: Path,
) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.json").write_text("{}")
    template = """
        templates:
          t:
            parameters: {schema: {}}
            route:
              from: {http: {path: /a, schema: "${schema}"}}
              steps: [{validate: {json_schema: one.json}}]
    """
    use = "routes: {a: {use: t, with: {schema: two.json}}}"
    found = project(tmp_path, one__t=template, two__a=use)
    assert routes(found).keys() == {"a"}
    assert tmp_path / "two" / "two.json" in found.sources


# --- defaults and policies


def test_policies_and_defaults_the_nearest_first(tmp_path: Path) -> None:
    top = """
        defaults:
          retry: {attempts: 2}
          timeout: 1m
          endpoints: {circuit_breaker: {failures: 7}}
        policies:
          patient: {retry: {attempts: 20}, dead_letter: {queue: late}}
        connections:
          crm: {http: {url: "http://127.0.0.1:1/", circuit_breaker: {failures: 3}}}
        routes:
          a: {from: {queue: a}, steps: [{send: {http: "http://127.0.0.1:1/"}}]}
          b:
            from: {queue: b}
            policy: patient
            timeout: 5s
            steps: [{send: {http: {connection: crm}}}]
          c: {from: {queue: c}, retry: {attempts: 1}, timeout: null, steps: [{run: sub}]}
          sub: {steps: [{log: hello}]}
    """
    team = """
        defaults: {timeout: 30s}
        routes: {d: {from: {queue: d}}}
    """
    found = project(tmp_path, top=top, team__d=team)
    made = {name: route.options for name, route in routes(found).items()}
    attempts = {name: made[name].retry.attempts for name in "abcd"}
    assert attempts == {"a": 2, "b": 20, "c": 1, "d": 2}
    assert {name: made[name].timeout for name in "abcd"} == {"a": 60, "b": 5, "c": None, "d": 30}
    assert made["b"].dead_letter == {"queue": "late"}
    # What its callers have is not done twice.
    assert (made["sub"].retry, made["sub"].timeout) == (None, None)


async def test_endpoints_have_the_breaker_of_their_route_if_there_is_no_nearer_one(
    tmp_path: Path,
) -> None:
    from esb.bus import Shared
    from esb.middleware.breaker import Breaker

    text = """
        defaults:
          endpoints: {circuit_breaker: {failures: 7}}
          dead_letter: {http: "http://127.0.0.1:1/"}
        connections: {crm: {http: {url: "http://127.0.0.1:1/", circuit_breaker: {failures: 3}}}}
        routes:
          a:
            from: {queue: a}
            steps:
              - send: {http: "http://127.0.0.1:1/"}
              - send: {http: {connection: crm}}
              - send: {http: {url: "http://127.0.0.1:1/", circuit_breaker: {failures: 1}}}
    """
    (tmp_path / "a.yaml").write_text(textwrap.dedent(text))
    shared = Shared()
    load([tmp_path], environ={}, root=tmp_path, shared=shared).check()
    keys = [key for key, thing in shared.objects.items() if isinstance(thing, Breaker)]
    names = [key[0] for key in keys if isinstance(key, tuple)]
    assert names == [
        "circuit_breaker of a/steps[0].send",
        "circuit_breaker of connection crm",
        "circuit_breaker of a/steps[2].send",
    ]


def test_what_a_section_makes_has_them_as_well(tmp_path: Path) -> None:
    wsdl = Path(__file__).parent.parent / "support" / "calculator.wsdl"
    (tmp_path / "calculator.wsdl").write_bytes(wsdl.read_bytes())
    text = """
        defaults: {timeout: 7s}
        expose: {calc: {wsdl: calculator.wsdl, at: /calc}}
    """
    before = routes(project(tmp_path, a=text))
    assert {route.options.timeout for route in before.values()} == {7}
    after = routes(project(tmp_path, a=text.replace("7s", "8s")))
    assert all(before[name].fingerprint != after[name].fingerprint for name in before)


def test_mistakes_with_policies(tmp_path: Path) -> None:
    one = """
        defaults:
          retries: {attempts: 2}
          timeout: soon
        policies:
          patient: {retry: {attempts: 0}}
        routes:
          a: {from: {queue: a}, policy: patiant}
          b: {from: {queue: b}}
    """
    two = "defaults: {timeout: 1s}\npolicies: {patient: {}}"
    found = told(project(tmp_path, one=one, two=two), tmp_path)
    assert found == [
        "one.yaml:3:3: unknown key 'retries' (did you mean 'retry'?)",
        "one.yaml:4:12: a duration is a number with its unit: 500ms, 5s, 2m, 1h or 1d",
        "one.yaml:6:31: must be greater than or equal to 1",
        "one.yaml:8:33: there is no policy 'patiant' (did you mean 'patient'?)",
        "two.yaml:1:1: the defaults of this folder are set already in one.yaml",
        "two.yaml:2:12: policy 'patient' exists already",
    ]


# --- profiles

BASE = """
    connections:
      crm: {http: {url: "http://127.0.0.1:1/", max_connections: 7}}
      queue: {amqp: {url: "amqp://127.0.0.1:1/"}}
    listen: {port: 1234, docs: false}
    defaults: {timeout: 5s, retry: {attempts: 2}}
    routes:
      a:
        from: {queue: a}
        steps: [{send: {http: {connection: crm}}}]
        retry: {attempts: 3, within: 1h}
      b: {from: {queue: b}}
"""
PROFILES = """
    profiles:
      prod:
        connections:
          crm: {http: {url: "${CRM_URL}"}}
          other: {http: {url: "http://127.0.0.1:3/"}}
        listen: {port: 80}
        admin: {port: 81}
        defaults: {timeout: 1m}
        routes:
          a: {retry: {attempts: 9}}
          c: {from: {queue: c}}
      test:
        listen: {port: 0}
"""


def test_a_profile_replaces_single_options(tmp_path: Path) -> None:
    environ = {"CRM_URL": "http://127.0.0.1:2/"}
    base = project(tmp_path, base=BASE, profiles=PROFILES)
    assert routes(base).keys() == {"a", "b"}
    assert base.settings["listen"].port == 1234
    prod = load([tmp_path], environ=environ, root=tmp_path, profile="prod")
    made = routes(prod)
    assert made.keys() == {"a", "b", "c"}
    [sent] = [part for part in made["a"].outline.walk() if part.direction == "sink"]
    assert (str(sent.options.url), sent.options.max_connections) == ("http://127.0.0.1:2/", 7)
    retry = made["a"].options.retry
    assert (retry.attempts, retry.within) == (9, None)
    assert (made["b"].options.timeout, made["b"].options.retry.attempts) == (60, 2)
    listen, admin = prod.settings["listen"], prod.settings["admin"]
    assert (listen.port, listen.docs, admin.port) == (80, False, 81)


def test_the_environment_may_say_which_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, base=BASE, profiles=PROFILES)
    monkeypatch.setenv("ESB_PROFILE", "test")
    assert load([tmp_path], environ={}, root=tmp_path).check().settings["listen"].port == 0


def test_another_adapter_replaces_a_connection(tmp_path: Path) -> None:
    profiles = 'profiles: {dev: {connections: {queue: {http: {url: "http://127.0.0.1:1/"}}}}}'
    found = project(tmp_path, profile="dev", base=BASE, profiles=profiles)
    assert told(found, tmp_path) == []


def test_mistakes_with_profiles(tmp_path: Path) -> None:
    found = project(tmp_path, profile="prd", base=BASE, profiles=PROFILES)
    assert told(found, tmp_path) == ["--profile: there is no profile 'prd' (did you mean 'prod'?)"]
    wrong = """
        profiles:
          prod:
            connection: {}
            connections:
              crm: {http: {url: "${NOT_THERE}", max_conections: 2}}
            listen: {port: "${PORT}"}
            routes:
              a: {retries: {}}
          test: 1
    """
    found = project(tmp_path, profile="prod", environ={"PORT": "x"}, profiles=wrong)
    assert told(found, tmp_path) == [
        "profiles.yaml:4:5: unknown section 'connection' (did you mean 'connections'?)",
        "profiles.yaml:6:25: the environment variable NOT_THERE is not set"
        " (set it, or give a default: ${NOT_THERE:-...})",
        "profiles.yaml:6:41: unknown key 'max_conections' (did you mean 'max_connections'?)",
        "profiles.yaml:7:20: must be a whole number",
        "profiles.yaml:9:11: unknown key 'retries' (did you mean 'retry'?)",
        "profiles.yaml:10:9: a profile is a mapping of sections",
    ]
    # What is not meant for here is checked as far as it can be, without what its place gives it.
    found = project(tmp_path, profiles=wrong)
    assert [line.split(":")[1] for line in told(found, tmp_path)] == ["4", "10"]


@pytest.mark.parametrize("profile", ["", "prod", "test"])
def test_what_the_page_shows_loads(tmp_path: Path, profile: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "projects.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        known = profile if "profiles:" in block else ""
        environ = {"CRM_URL": "https://crm.example"} if known == "prod" else {}
        project(tmp_path, profile=known, environ=environ, page=block).check()


def test_the_schema_for_editors_knows_what_the_page_shows() -> None:
    from jsonschema import Draft202012Validator

    from esb.reference import schema
    from esb.strict_yaml import References, read_yaml

    validator = Draft202012Validator(schema())
    page = (Path(__file__).parents[2] / "docs" / "projects.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        data = read_yaml(block, "page", Path(), References(None)).data
        assert [error.message for error in validator.iter_errors(data)] == []
    wrong = {"routes": {"a": {"use": "t", "wiht": {}}}, "profiles": {"p": {"routs": {}}}}
    assert len(list(validator.iter_errors(wrong))) == 2
