"""The command line: `esb run`, `schema`, `send`, `init`, what is in `esb.commands`, and what
adapters add."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from esb import __version__, logs
from esb.commands.terminal import fail_with, route_files
from esb.errors import ConfigError, EsbError

COMMANDS = {
    "auth": "esb.commands.auth:app",
    "check": "esb.commands.check:check",
    "dead": "esb.commands.store:dead",
    "docs": "esb.commands.show:docs",
    "explain": "esb.commands.show:explain",
    "find": "esb.commands.store:find",
    "graph": "esb.commands.show:graph",
    "list": "esb.commands.show:list_",
    "record": "esb.commands.record:command",
    "reload": "esb.commands.live:reload",
    "routes": "esb.commands.live:routes",
    "store": "esb.commands.store:store",
    "test": "esb.commands.test:command",
    "trace": "esb.commands.trace:trace",
    "versions": "esb.commands.live:versions",
    "why": "esb.commands.trace:why",
}
"""Commands in files of their own, each a function or a Typer: loaded when they are used."""


class _Commands(TyperGroup):
    """The commands here, those of the table, and those that adapters contribute."""

    def _points(self) -> dict[str, EntryPoint]:
        own = {name: EntryPoint(name, value, "esb.commands") for name, value in COMMANDS.items()}
        return {**{point.name: point for point in entry_points(group="esb.commands")}, **own}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(self._points())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in (points := self._points()):
            loaded = points[cmd_name].load()
            if not isinstance(loaded, typer.Typer):
                alone = typer.Typer(add_completion=False)
                alone.command(cmd_name)(loaded)
                loaded = alone
            found = typer.main.get_command(loaded)
            found.name = cmd_name
        return found


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An enterprise service bus: SOAP, REST and AMQP bridged by routes in YAML.",
)

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="YAML files or folders of them; routes/ if left out.", show_default=False),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", help="The profile that counts; or ESB_PROFILE.", show_default=False),
]


@app.callback(invoke_without_command=True)
def _main(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    token: Annotated[
        str,
        typer.Option(
            help="What shows the admin API who asks: a key, a token or name:password; better as "
            "ESB_ADMIN_TOKEN, since others can read command lines.",
        ),
    ] = "",
) -> None:
    if token:
        os.environ["ESB_ADMIN_TOKEN"] = token
    if version:
        typer.echo(__version__)
        raise typer.Exit
    ctx.obj = serve


@app.command()
def run(
    paths: Paths = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Reload the routes when a file changes.")
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json", help="Log in JSON.")] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, at least.")
    ] = "info",
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that messages in flight get to finish on SIGTERM.")
    ] = 25.0,
    profile: Profile = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that run the routes, beside two that serve them.")
    ] = 1,
) -> None:
    """Run the bus until SIGTERM or Ctrl-C."""
    serve(
        route_files(paths), watch=watch, json_logs=json_logs, log_level=log_level, grace=grace,
        profile=profile, workers=workers,
    )  # fmt: skip


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; standard output if left out.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The option reference as a page for people.")
    ] = False,
    tests: Annotated[
        bool, typer.Option("--tests", help="The schema of files of tests, *.test.yaml.")
    ] = False,
) -> None:
    """Write the JSON Schema of route files, which gives editors completion and checks."""
    if tests:
        from esb.testing.schema import schema as of_tests

        text = json.dumps(of_tests(), indent=2) + "\n"
    elif markdown:
        from esb.catalogue import page

        text = page()
    else:
        from esb import reference

        text = json.dumps(reference.schema(), indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def send(
    endpoint: Annotated[
        str, typer.Argument(help="As in a route: '{amqp: {connection: rabbit, queue: orders}}'.")
    ],
    body: Annotated[
        str, typer.Argument(help="The text to send, @FILE, or - for standard input.")
    ] = "",
    content_type: Annotated[
        str, typer.Option("--content-type", "-t", help="Of the body.")
    ] = "application/json",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="name: value; may be repeated.")
    ] = None,
    call: Annotated[
        bool, typer.Option("--call", help="Wait for the reply and print its body.")
    ] = False,
    project: Annotated[
        list[Path] | None,
        typer.Option(
            "--project", "-p", help="Files whose connections may be named; routes/ if left out."
        ),
    ] = None,
) -> None:
    """Send one message to an endpoint, and return once it is taken."""
    from esb.envelope import Body, Envelope, Headers

    logs.configure(json=False, level="error")  # what matters is the answer, or why there is none
    if project is None and Path("routes").is_dir():
        project = [Path("routes")]
    pairs = [(n.strip(), v.strip()) for n, _, v in (h.partition(":") for h in header or [])]
    envelope = Envelope(
        body=Body(_body(body), content_type), headers=Headers(pairs), source="esb send"
    )
    try:
        answer = asyncio.run(_send(endpoint, envelope, call=call, paths=project or []))
    except ConfigError as e:
        fail_with(e.diagnostics)
    except EsbError as e:
        typer.secho(f"not sent ({e.code}): {e.detail}", fg="red", err=True)
        found = [f"{one['pointer'] or '/'}: {one['detail']}" for one in getattr(e, "errors", ())]
        for line in (*found, *e.notes):
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1) from e
    if answer is None:
        typer.echo(f"taken, as message {envelope.id}", err=True)
    else:
        sys.stdout.buffer.write(answer.body.raw)


async def _send(endpoint: str, envelope: Any, *, call: bool, paths: Sequence[Path]) -> Any:
    from esb.bus import Shared
    from esb.config import load_endpoint

    shared = Shared()
    target = load_endpoint(endpoint, "caller" if call else "sink", paths, shared=shared)
    await shared.open(lambda thing: None)
    try:
        if call:
            return await target.call(envelope)
        await target.send(envelope)
        return None
    finally:
        await shared.close()


def _body(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as e:
            raise typer.BadParameter(f"{text[1:]} cannot be read: {e.strerror}") from e
    return text.encode()


_HELLO = """\
# Try it: esb run, then  curl localhost:8080/hello/world
routes:
  hello:
    from: {http: {path: /hello/:name, method: GET}}
    steps:
      - transform: {jinja: hello.json.j2}
"""
_HELLO_TEST = """\
# Run it: esb test
tests:
  whoever calls is greeted by name:
    given: {path: {name: world}}
    expect:
      status: 200
      body: {message: "Hello, world!"}
"""
_HELLO_TEMPLATE = '{"message": {{ ("Hello, " ~ path.name ~ "!") | tojson }}}\n'


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path(),
) -> None:
    """Start a project: a first route with its template and a test, ready to run."""
    files = {
        folder / "routes" / "hello.yaml": _HELLO,
        folder / "routes" / "hello.test.yaml": _HELLO_TEST,
        folder / "transforms" / "hello.json.j2": _HELLO_TEMPLATE,
        folder / ".gitignore": "data/\n",
    }
    taken = [path for path in files if path.exists()]
    if taken:
        typer.secho(f"{taken[0]} exists already; nothing was written", fg="red", err=True)
        raise typer.Exit(1)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        typer.echo(f"  wrote {path}")
    where = f"cd {folder} && " if folder != Path() else ""
    typer.echo(f"\nnext: {where}esb run --watch\n      curl localhost:8080/hello/world")


# --- what the commands stand on ------------------------------------------------------------------


def serve(
    paths: Sequence[Path],
    *,
    extra: Mapping[str, Any] | None = None,
    watch: bool = False,
    json_logs: bool = False,
    log_level: str = "info",
    grace: float = 25.0,
    root: Path | None = None,
    profile: str | None = None,
    workers: int = 1,
) -> None:
    """Run a bus from files, and from `extra`, plain data in the shape of a file.

    root: the folder that files are looked up in and never leave; the working directory if None.
    profile: see `esb.config.load`. workers: processes that run the routes, see `esb.workers`.
    """
    logs.configure(json=json_logs, level=log_level)
    try:
        from esb.service import Service, run_loop

        make = partial(Service, paths, extra, watch=watch, grace=grace, root=root, profile=profile)
        if workers == 1:
            run_loop(make().run())
            return
        from esb.workers import supervise

        status = supervise(lambda stores: make(stores=stores), workers)
    except ConfigError as e:
        fail_with(e.diagnostics)
    except EsbError as e:
        typer.secho(f"the bus cannot start: {e.detail}", fg="red", err=True)
        raise typer.Exit(1) from e
    if status:
        raise typer.Exit(status)


def main() -> None:
    """Entry point of the `esb` command."""
    try:
        app()
    except OSError as e:
        # A file that a command was told to read or write: the name and the reason are all it takes.
        where = f"{e.filename}: " if e.filename else ""
        typer.secho(f"{where}{e.strerror or e}", fg="red", err=True)
        sys.exit(1)
