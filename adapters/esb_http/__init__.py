"""The http adapter: REST in (source), HTTP out one-way (sink) and with a reply (caller)."""

from esb.adapter import Adapter, Role
from esb_http.endpoint import CallerOptions, SinkOptions, make_caller, make_sink
from esb_http.source import SourceOptions, make_source
from esb_web import CheckedOptions

adapter = Adapter(
    source=Role(SourceOptions, make_source),
    sink=Role(SinkOptions, make_sink),
    caller=Role(CallerOptions, make_caller),
    connection=CheckedOptions,
)
