"""`esb auth key` and `esb auth password`: what the files of callers hold, made."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from esb.commands.terminal import fail

app = typer.Typer(no_args_is_help=True, help="Make keys and passwords of those who call.")


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: `message.principal`.")],
    role: Annotated[list[str] | None, typer.Option("--role", "-r", help="A role of it.")] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", "-s", help="A scope of it.")] = None,
    expires: Annotated[str, typer.Option(help="Until when it is good: 2027-01-31.")] = "",
) -> None:
    """Make an API key. It is printed once, on standard error; the entry for the file of keys, which
    holds its hash alone, on standard output."""
    import json

    from esb.auth.keys import ApiKey, new_key

    made, digest = new_key()
    entry = {"name": name, "sha256": digest}
    if expires:
        entry["expires"] = expires
    try:
        ApiKey.model_validate({**entry, "roles": role or [], "scopes": scope or []})
    except ValueError as e:
        fail(str(e))
    typer.echo(f"  - name: {json.dumps(name)}\n    sha256: {digest}")
    for what, values in (("roles", role), ("scopes", scope)):
        if values:
            typer.echo(f"    {what}: {json.dumps(values)}")
    if expires:
        typer.echo(f"    expires: {json.dumps(expires)}")
    typer.secho(f"the key, which nobody can show again: {made}", err=True)


@app.command()
def password(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    role: Annotated[list[str] | None, typer.Option("--role", "-r", help="A role.")] = None,
) -> None:
    """Hash a password, which is asked for or read from standard input; print the entry for the file
    of users."""
    import getpass
    import json

    from esb.auth.passwords import hashed

    if sys.stdin.isatty():
        given = getpass.getpass()
        if getpass.getpass("Again: ") != given:
            fail("these are two passwords")
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        fail("a password is not empty")
    try:
        made = hashed(given)
    except ImportError:
        fail("the library for passwords is not installed: pip install 'esb[basic]'")
    typer.echo(f"  - name: {json.dumps(name)}\n    password: {made}")
    if role:
        typer.echo(f"    roles: {json.dumps(role)}")
