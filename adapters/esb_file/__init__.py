"""The file adapter: the files of a folder as messages (source), messages as files (sink), and a
file as a reply (caller)."""

from esb.adapter import Adapter, Role
from esb_file.options import CallOptions, SinkOptions, SourceOptions
from esb_file.sink import FileCaller, FileSink
from esb_file.source import FileSource

adapter = Adapter(
    source=Role(SourceOptions, FileSource),
    sink=Role(SinkOptions, FileSink),
    caller=Role(CallOptions, FileCaller),
)
