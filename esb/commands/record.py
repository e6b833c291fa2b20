"""`esb record`: live traffic becomes tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from esb import logs
from esb.commands.asking import Files, Url, note, running, told
from esb.commands.terminal import fail, plain, route_files
from esb.redaction import OUTSIDE
from esb.secrets import References


def command(
    route: Annotated[str, typer.Argument(help="The route whose messages are recorded.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file of tests to write; <route>.test.yaml beside the "
            "project's files if left out.", show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="So many messages at most.")
    ] = 10,
    max_body: Annotated[
        int, typer.Option(min=1, max=1024**2, help="No message with a larger body, in bytes.")
    ] = 65_536,
    url: Url = "",
    project: Files = None,
) -> None:  # fmt: skip
    """Record what a route is given, what far sides answer and what comes of it, as tests.

    Secrets are left out. Ctrl-C ends it; what was recorded by then is written.
    """
    logs.configure(json=False, level="error")
    files = [Path(file) for file in route_files(project)]
    folder = files[0] if files[0].is_dir() else files[0].parent
    output = output or folder / f"{route.replace('/', '-')}.test.yaml"
    if not output.name.endswith((".test.yaml", ".test.yml")):
        fail(f"{output}: a file of tests is called *.test.yaml", 2)
    if output.exists():
        fail(f"{output} exists already; nothing is recorded", 2)
    tests = _recorded(route, limit, max_body, url, project)
    if not tests:
        fail("nothing was recorded")
    inside = [os.path.relpath(file, output.parent) for file in files]
    environ = _addresses(files)
    _settle(output, tests, lambda: written(inside, tests, environ))
    note(f"{len(tests)} test{'s' * (len(tests) != 1)} written to {output}")


def _addresses(files: list[Path]) -> dict[str, str]:
    """What stands, in tests, for the variables that hold addresses: what is none as well."""
    from esb.config import load

    references = References(os.environ)
    load(files, environ=references)
    return {
        name: f"{value.partition('://')[0]}://{name.lower().replace('_', '-')}.example"
        for name, value in references.resolved.items()
        if "://" in value and not name.startswith(OUTSIDE)
    }


def _recorded(
    route: str, limit: int, max_body: int, url: str, project: list[Path] | None
) -> dict[str, Any]:
    tests: dict[str, Any] = {}
    with told():
        bus = running(url, project)
        path = (
            f"/routes/{quote(route)}/recording?{urlencode({'limit': limit, 'max_body': max_body})}"
        )
        try:
            for number, line in enumerate(bus.lines(path)):
                if number == 0:
                    note(f"recording {route} of the bus at {bus.url}; Ctrl-C ends it")
                if line.strip():
                    _take(json.loads(line, parse_float=Decimal), tests)
        except KeyboardInterrupt:
            note("")
    return tests


def _take(one: Mapping[str, Any], tests: dict[str, Any]) -> None:
    if "dropped" in one:
        note(f"{one['dropped']} were left out: they came faster than they could be written")
    elif one["test"] is None:
        note(f"not recorded: {plain(one['reason'])} ({one['name']})")
    else:
        name, number = one["name"], 1
        while name in tests:
            number += 1
            name = f"{one['name']} ({number})"
        tests[name] = one["test"]
        note(f"recorded: {name}")


def _settle(file: Path, tests: dict[str, Any], text: Callable[[], str]) -> None:
    """Write the file, run its tests, and leave out of those that do not pass what is not the same
    each time: the order of calls, then their bodies (a protocol may have made others of them), then
    that of the answer."""
    from esb.errors import ConfigError
    from esb.testing.suite import Suite

    def failing() -> dict[str, str]:
        file.write_text(text(), encoding="utf-8")
        suite = Suite(file)
        results = [suite.run(test) for test in suite.tests.values()]
        return {one.name: one.failures[0].message for one in results if not one.passed}

    try:
        failed = failing()
        whole = {name: deepcopy(tests[name]) for name in failed}
        for variant in _VARIANTS:
            for name in failed:
                tests[name] = deepcopy(whole[name])
                for less in variant:
                    less(tests[name]["expect"])
            failed = failing() if failed else {}
    except ConfigError as e:
        note(f"the tests cannot be run here: {e.diagnostics[0]}")
        return
    for name, why in failed.items():
        note(f"does not pass as it is: {name}: {plain(why)}")


def _in_any_order(expect: dict[str, Any]) -> None:
    expect["any_order"] = True


def _without_bodies_of_calls(expect: dict[str, Any]) -> None:
    expect["calls"] = [{"to": call["to"]} for call in expect["calls"]]


def _without_body(expect: dict[str, Any]) -> None:
    expect.pop("body", None)


_VARIANTS = (
    (_in_any_order,),
    (_without_bodies_of_calls,),
    (_in_any_order, _without_bodies_of_calls),
    (_in_any_order, _without_bodies_of_calls, _without_body),
)


def written(
    routes: list[str], tests: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> str:
    """A file of tests."""
    from esb.envelope import Body

    document = {"routes": routes, **({"environ": environ} if environ else {}), "tests": tests}
    return Body.of(_escaped(document), "application/yaml").text


def _escaped(data: Any) -> Any:
    """With texts that would be references as what they are."""
    if isinstance(data, str):
        return data.replace("${", "$${")
    if isinstance(data, Mapping):
        return {key: _escaped(value) for key, value in data.items()}
    return list(map(_escaped, data)) if isinstance(data, list) else data
