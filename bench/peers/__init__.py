"""Other products as contestants, one module each: see README.md beside this file."""

from __future__ import annotations

from measure import Contestant

from peers import benthos, camel, node, python
from peers.installed import Installed


def all_peers() -> list[Contestant]:
    """All of them, installed or not."""
    return [
        camel.Camel(),
        benthos.Benthos(),
        node.NodeSoap(),
        python.ZeepFastApi(),
        python.AioPika(),
    ]


def products() -> list[Installed]:
    """What fetch.py fetches."""
    return [camel.product, benthos.product, node.product, python.product]
