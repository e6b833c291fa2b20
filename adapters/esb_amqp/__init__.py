"""AMQP 0-9-1 (RabbitMQ): consume queues, publish with confirms, request and reply."""

from esb.adapter import Adapter, Role
from esb_amqp.options import CallerOptions, ConnectionOptions, SinkOptions, SourceOptions
from esb_amqp.sink import AmqpCaller, AmqpSink
from esb_amqp.source import AmqpSource

adapter = Adapter(
    source=Role(SourceOptions, AmqpSource),
    sink=Role(SinkOptions, AmqpSink),
    caller=Role(CallerOptions, AmqpCaller),
    connection=ConnectionOptions,
)

__all__ = ["adapter"]
