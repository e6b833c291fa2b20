"""`send: {file: ...}` writes a file, `call: {file: ...}` reads one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from esb.adapter import Build
from esb.envelope import Body, Envelope
from esb.errors import BadReply, Rejected
from esb_file import place
from esb_file.media import content_type
from esb_file.options import CallOptions, SinkOptions


class FileSink:
    """A Sink into a folder."""

    def __init__(self, options: SinkOptions, build: Build) -> None:
        build.channel(f"folder {options.folder}", outside=True)
        self._folder = build.data_folder(options.folder)
        self._name = build.text(options.name, "name")
        self._mode = None if options.mode is None else int(options.mode, 8)
        self._options = options

    async def send(self, envelope: Envelope) -> None:
        """Return once the file is on the disk.

        Raises Rejected if there is one already or its name cannot be used, RouteFailure if the name
        leads out of the folder, Unreachable without a folder, Overloaded on a full disk, Transient.
        """
        name = self._name(envelope)
        with envelope.body.open() as content:
            try:
                await asyncio.to_thread(
                    place.write,
                    self._folder,
                    name,
                    content,
                    self._options.if_exists,
                    mode=self._mode,
                    end=self._options.end.encode(),
                )
            except OSError as e:
                raise place.told(e, self._folder, name) from e


class FileCaller:
    """A RequestReply that answers with a file."""

    def __init__(self, options: CallOptions, build: Build) -> None:
        self._folder = build.data_folder(options.folder)
        self._name = build.text(options.name, "name")
        self._options = options

    async def call(self, envelope: Envelope) -> Envelope:
        """The content of the file.

        Raises Rejected if there is none, BadReply if it is too large, and else as the sink does.
        """
        options = self._options
        name = self._name(envelope)
        try:
            raw, status = await asyncio.to_thread(place.read, self._folder, name, options.max_size)
        except FileNotFoundError as e:
            if self._folder.is_dir():
                raise Rejected("there is no such file", status=404).noted(
                    f"{self._folder}/{name}"
                ) from e
            raise place.told(e, self._folder, name) from e
        except OSError as e:
            raise place.told(e, self._folder, name) from e
        if len(raw) > options.max_size:
            raise BadReply(f"the file has more than {options.max_size} bytes")
        kind = content_type(name, options.content_type, options.charset)
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        facts = {"size": len(raw), "modified": modified}
        return envelope.reply(Body(raw, kind), facts=facts)
