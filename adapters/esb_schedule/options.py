"""What may be written under `schedule:`."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, model_validator

from esb.options import Duration, Options


def _cron(value: str) -> str:
    try:
        next(CronSim(value, datetime.now(UTC)))
    except CronSimError as e:
        raise ValueError(
            f"no cron expression ({str(e).lower()}): minute hour day-of-month month day-of-week, "
            "`0 6 * * MON-FRI`"
        ) from e
    except StopIteration as e:
        raise ValueError("this never happens") from e
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError) as e:  # a KeyError of its own, names that are paths, folders
        raise ValueError(_unknown(value)) from e
    except KeyError as e:
        raise ValueError(_unknown(value)) from e
    return value


def _unknown(zone: str) -> str:
    close = difflib.get_close_matches(zone, sorted(available_timezones()), n=1)
    return f"there is no time zone '{zone}'" + (f": did you mean '{close[0]}'?" if close else "")


class SourceOptions(Options):
    """Fire at fixed times: each firing is a message, whose time and `schedule.due` are when it was
    due. Of several buses on one store exactly one fires.

    For example:

        from: {schedule: {every: 15m}}
    """

    __shorthand__ = "every"

    every: Annotated[Duration, Field(ge=0.01)] | None = Field(
        None,
        description="Fire so often, counted from 1970 in UTC: `1h` is on the hour, `1d` at "
        "midnight.",
    )
    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        None,
        description="Fire at these times: minute, hour, day of month, month, day of week, "
        "`0 6 * * MON-FRI`; with six fields the first is seconds. `L` is the last day, `MON#1` "
        "the first Monday.",
    )
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC",
        description="Time zone of `cron`, such as Europe/Vienna. What falls into an hour that is "
        "missing fires right after it; what has a fixed hour fires once in one that comes twice.",
    )
    jitter: Duration = Field(
        0.0,
        description="Fire up to so much later, at random each time, so that not all come at once.",
    )
    at_start: bool = Field(False, description="Fire also when the route starts, each time.")
    missed: Literal["once", "skip"] = Field(
        "once",
        description="What was due while no bus ran, or while the firing before was still in the "
        "route: `once` fires as soon as possible, once however many there were; `skip` leaves it "
        "out, and what is more than a minute late for any other reason.",
    )
    overlap: bool = Field(
        False, description="Fire although the firing before is still in the route."
    )
    body: Any = Field(None, description="The body of the messages, as data; empty if left out.")
    content_type: str = Field("application/json", description="What the body is written as.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError("a schedule has one of `every` and `cron`")
        if self.cron is None and self.zone != "UTC":
            raise ValueError("`zone` is for `cron`: `every` counts in UTC")
        if self.every is not None and self.jitter >= self.every:
            raise ValueError("`jitter` is less than `every`")
        return self
