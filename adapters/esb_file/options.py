"""What may be written under `file:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from esb.options import Backoff, Duration, Options, Range, Size
from esb_file.place import IfExists

DELETE = "delete"
KEEP = "keep"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _target(value: str) -> str:
    first, slash, _ = value.partition("/")
    if not slash:
        raise ValueError("where a file goes begins with a folder: done/ or done/{{ file.name }}")
    if "{{" in first:
        raise ValueError("where a file goes begins with a folder of a fixed name: done/{{ ... }}")
    return value


def _then(value: str) -> str:
    return value if value in (DELETE, KEEP) else _target(value)


def _marker(value: str) -> str:
    if value and "{{" not in value:
        raise ValueError("each file has a marker of its own: '{{ file.name }}.done'")
    return value


Target = Annotated[str, AfterValidator(_target)]
Mode = Annotated[str, Field(pattern="^0?[0-7]{3}$")]


class SourceOptions(Options):
    """Take the files of a folder, one message each. A file stays where it is until its message is
    through. Hidden files (`.name`) and symbolic links are left alone.

    For example:

        from: {file: {folder: inbox, glob: "*.csv"}}
    """

    __shorthand__ = "folder"

    folder: str = Field(
        description="The folder; relative to where the bus runs, as the path of its store is."
    )
    glob: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = (
        Field(["*"], description="Which names, one pattern or several: `*.csv`.")
    )
    recursive: bool = Field(False, description="Also the folders in it.")
    sort: Literal["name", "time", "size"] = Field(
        "name",
        description="Which of those that are there comes first: by path, the oldest, the smallest.",
    )
    order: bool = Field(
        False,
        description="One at a time, in the order that `sort` says, also of several buses on one "
        "store; one that fails holds up the rest.",
    )
    concurrency: int = Field(10, ge=1, le=10_000, description="Files in the route at a time.")
    settle: Duration = Field(
        2.0,
        description="A file is taken once nothing of it has changed for so long. `0s` if files "
        "appear whole, by a rename.",
    )
    marker: Annotated[str, AfterValidator(_marker)] = Field(
        "",
        description="A file is taken once this one is beside it, `{{ file.name }}.done`, which is "
        "then deleted with it.",
    )
    min_size: Size = Field(0, description="Smaller files are left alone; 1 for all but empty ones.")
    max_size: Size | None = Field(
        None, description="Larger files are left alone, and the health of the route tells of them."
    )
    then: Annotated[str, AfterValidator(_then)] = Field(
        "done/",
        description="What becomes of a file that is through: `delete`, `keep` (it is taken again "
        "when it has changed), or where it goes: `done/`, `done/{{ file.stem }}-old.csv`, "
        "`/archive/`. Relative to the folder; a number is added to a name that is taken.",
    )
    failed: Target | None = Field(
        None,
        description="Where a file goes whose message is in the dead letters, as in `then`; as "
        "`then` says if left out.",
    )
    content_type: str = Field(
        "", description="Content type of the messages; by the name's ending if left out."
    )
    charset: str = Field("", description="Charset of files that are text; UTF-8 if left out.")
    poll: Annotated[Duration, Field(gt=0)] = Field(
        5.0,
        description="How often to look besides being told of changes, which network mounts do not "
        "tell of.",
    )
    backoff: Backoff = Field(
        Range(first=1, longest=60), description="How long a file waits that is to be tried again."
    )


class _Named(Options):
    folder: str = Field(
        description="The folder; relative to where the bus runs, as the path of its store is. It "
        "must be there, folders in it are made."
    )
    name: str = Field(
        description="Path of the file in the folder, text with {{ }}: `{{ message.id }}.json`. It "
        "cannot lead out of the folder."
    )


class SinkOptions(_Named):
    """Write the message into a file, which appears as a whole.

    For example:

        send: {file: {folder: out, name: "{{ body.number }}.json"}}
    """

    if_exists: IfExists = Field(
        "fail",
        description="What if there is a file of this name. `fail`: an error, unless it holds the "
        "very same; `replace`: it; `number`: write `name-1.json`; `append`: at its end, which no "
        "reader sees in one step.",
    )
    end: str = Field("", description='Text behind each message: `"\\n"` for lines.')
    mode: Mode | None = Field(
        None, description='Permissions of a new file: `"0640"`; those of the process if left out.'
    )


class CallOptions(_Named):
    """Read a file: its content is the reply (EIP: Content Enricher), `reply.size` and
    `reply.modified` what is known of it.

    For example:

        call: {file: {folder: out, name: "{{ body.number }}.json"}}
    """

    content_type: str = Field(
        "", description="Content type of the reply; by the name's ending if left out."
    )
    charset: str = Field("", description="Charset of a file that is text; UTF-8 if left out.")
    max_size: Size = Field(10 * 1024 * 1024, description="A larger file is an error.")
