"""What may be written under `queue:` and `topic:`, and in the section `queues:`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from esb.adapter import Section
from esb.options import Backoff, Duration, Options, Range

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_NAMES: Final = "letters, digits, '.', '_' and '-', at most 200, a letter or digit first"


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"a name of a queue, topic or subscription is {_NAMES}")
    return name


def _checked_if_fixed(name: str) -> str:
    return name if "{{" in name else _checked(name)


Name = Annotated[str, AfterValidator(_checked)]
NameText = Annotated[str, AfterValidator(_checked_if_fixed)]


class Terms(Options):
    """What a sender may ask for a message."""

    name: str = ""
    delay: Duration = Field(0.0, description="How long nobody gets to see it.")
    priority: int = Field(0, ge=0, le=9, description="The higher is taken first.")
    expires: Annotated[Duration, Field(gt=0)] | None = Field(
        None,
        description="A message that nobody took within this time goes to the dead letters "
        "(`expired`).",
    )
    key: str = Field(
        "",
        description="Messages of one key (text with {{ }}: `{{ body.customer }}`) are taken one "
        "after the other, in the order they were sent, the next when the one before is through; "
        "those of other keys, and those with none, meanwhile.",
    )

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.expires is not None and self.expires <= self.delay:
            raise ValueError("it would expire before anybody gets to see it (delay)")
        return self


class QueueSink(Terms):
    """Put the message into a queue of the bus.

    For example:

        send: {queue: {name: orders, key: "{{ body.customer }}"}}
    """

    __shorthand__ = "name"
    name: NameText = Field(description="The queue; may be text with {{ }}.")


class TopicSink(Terms):
    """Publish the message: each subscription of the topic gets a copy.

    For example:

        send: {topic: prices}
    """

    __shorthand__ = "name"
    name: Name = Field(description="The topic.")
    mandatory: bool = Field(
        True,
        description="A topic without subscriptions is an error; `false`: then the message is of "
        "interest to nobody, and forgotten.",
    )


class _Taking(Options):
    name: str = ""
    concurrency: int = Field(10, ge=1, le=10_000, description="Messages in the route at a time.")
    order: bool = Field(
        False,
        description="One at a time, in the order they came; one that fails holds up the rest.",
    )
    backoff: Backoff = Field(
        Range(first=1, longest=60), description="How long a message waits that was put back."
    )


class QueueSource(_Taking):
    """Take messages from a queue of the bus.

    For example:

        from: {queue: {name: orders, concurrency: 5}}
    """

    __shorthand__ = "name"
    name: Name = Field(description="The queue.")


class TopicSource(_Taking):
    """Take the messages that are published to a topic, from a subscription that keeps them while
    nobody takes them: from its first start on until it is ended with the admin API, whether or not
    the route still exists.

    For example:

        from: {topic: {name: prices, subscription: shop}}
    """

    __shorthand__ = "name"
    name: Name = Field(description="The topic.")
    subscription: Name | None = Field(
        None,
        description="The subscription, the route's name if left out. Routes that name the same one "
        "share its messages.",
    )


# --- the section ----------------------------------------------------------------------------------


class Broker(Options):
    """Queues and topics on RabbitMQ."""

    connection: str = Field(description="An entry under `connections:`, of `amqp`.")
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")] = Field(
        "esb", description="How their names on the broker begin: `esb.queue.orders`."
    )


class Each(Options):
    """What is said of one queue."""

    max_messages: int | None = Field(
        None,
        ge=1,
        description="It holds so many messages; of what comes on top, the sender is told to come "
        "back later.",
    )
    one_reader: bool = Field(
        False,
        description="On RabbitMQ: one route of one bus at a time gets its messages, others stand "
        "by. A route that reads it with `order: true` needs that there; the store needs nothing.",
    )


class Queues(Options):
    """Where the bus's own queues and topics are, and what is said of single ones."""

    on: Broker | None = Field(
        None,
        description="On RabbitMQ, `{connection: rabbit}`; left out, in the bus's store.",
    )
    each: dict[Name, Each] = Field(
        default_factory=dict,
        description="By the names of queues: `{orders: {max_messages: 5000}}`.",
    )

    def of(self, name: str) -> Each:
        """What is said of a queue."""
        return self.each.get(name, _NOTHING)


_NOTHING: Final = Each()
section = Section(options=Queues)
