"""The schedule adapter: messages by the clock."""

from esb.adapter import Adapter, Role
from esb_schedule.options import SourceOptions
from esb_schedule.source import ScheduleSource

adapter = Adapter(source=Role(SourceOptions, ScheduleSource))
