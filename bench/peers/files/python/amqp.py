"""Between AMQP and HTTP with aio-pika and aiohttp, as their documentation shows it:
`amqp.py consume` from bench.out to the backend, `amqp.py publish` from HTTP to bench.in."""

from __future__ import annotations

import asyncio
import os
import sys

import aio_pika
import aiohttp
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from aiohttp import web


async def consume() -> None:
    """Acknowledges a message after the 2xx, requeues it after anything else."""
    url = f"{os.environ['BACKEND']}/taken"
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    connector = aiohttp.TCPConnector(limit=100)
    async with connection, aiohttp.ClientSession(connector=connector) as session:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        queue = await channel.declare_queue("bench.out", durable=True)

        async def pass_on(message: AbstractIncomingMessage) -> None:
            async with message.process(requeue=True):
                headers = {"Content-Type": message.content_type or "application/octet-stream"}
                async with session.post(url, data=message.body, headers=headers) as answer:
                    answer.raise_for_status()

        await queue.consume(pass_on)
        await asyncio.Future()


async def publish() -> None:
    """Answers 202 once the broker has confirmed the message."""
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True)

        async def take(request: web.Request) -> web.Response:
            message = aio_pika.Message(
                await request.read(),
                content_type=request.content_type,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await channel.default_exchange.publish(message, "bench.in", mandatory=True)
            return web.Response(status=202)

        app = web.Application()
        app.router.add_post("/taken", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        await asyncio.Future()


uvloop.run({"consume": consume, "publish": publish}[sys.argv[1]]())
