"""The HTTP/1.1 server below every listener: a protocol on httptools, closed where that is open.

A request is an `Exchange`, handed to the app when all of it is here, or else after what was read
at a time. There is no interface of a gateway in between: a scope, two channels, an event and a task
for each request cost as much as all that this package does.
"""

from esb.http.connection import Connection, Limits
from esb.http.exchange import UNSAFE, Exchange, HungUp
from esb.http.server import App, HttpServer

__all__ = ["UNSAFE", "App", "Connection", "Exchange", "HttpServer", "HungUp", "Limits"]
