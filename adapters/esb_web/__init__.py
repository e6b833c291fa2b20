"""The one HTTP server, client and TLS that the http and soap adapters stand on; no adapter itself.

In:  web_server(build) -> WebServer, which mounts Sites; a Site's handler turns a Request into a
     Response, with to_envelope, to_response and problem in between.
Out: web_client(build, options) -> WebClient, with the options every HTTP endpoint shares
     (ClientOptions); error_of tells what an answer's status means for the message.
"""

from esb_web.checks import CheckedOptions, check_health
from esb_web.client import (
    ClientOptions,
    ClientReply,
    OutboundHeaders,
    WebClient,
    error_of,
    web_client,
)
from esb_web.listen import ListenOptions, section
from esb_web.messages import (
    Handler,
    ReplyBody,
    Request,
    Response,
    Site,
    passed_on,
    remaining,
    to_envelope,
    to_response,
)
from esb_web.problems import problem, status_of
from esb_web.rehearsal import rehearse
from esb_web.server import WebServer, claim_path, web_server

__all__ = [
    "CheckedOptions",
    "ClientOptions",
    "ClientReply",
    "Handler",
    "ListenOptions",
    "OutboundHeaders",
    "ReplyBody",
    "Request",
    "Response",
    "Site",
    "WebClient",
    "WebServer",
    "check_health",
    "claim_path",
    "error_of",
    "passed_on",
    "problem",
    "rehearse",
    "remaining",
    "section",
    "status_of",
    "to_envelope",
    "to_response",
    "web_client",
    "web_server",
]
