"""Where a host that a message chose may lead."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text
from support.web import backend, read_request

from esb.errors import BadMessage
from esb_web.client import ClientOptions, WebClient
from esb_web.proxy import proxies
from esb_web.reach import Reach, is_public, networks, numeric
from esb_web.transport import Pool

CLOSED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
    "4000::1",
]  # fmt: skip
OPEN = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
    "192.0.1.1", "192.169.0.1", "198.17.0.1", "223.255.255.255", "::ffff:8.8.8.8",
    "64:ff9b::808:808", "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888",
]  # fmt: skip


@pytest.mark.parametrize("address", CLOSED)
def test_what_is_not_of_the_public_network(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", OPEN)
def test_what_is(address: str) -> None:
    assert is_public(ip_address(address))


def found(*addresses: str) -> list[tuple[Any, ...]]:
    return [(2, 1, 6, "", (address, 80)) for address in addresses]


def test_what_is_allowed_besides() -> None:
    reach = Reach(networks(["10.1.0.0/16", "fd00::/8"]), frozenset({ip_address("127.0.0.1")}))
    reach.check("a.example", found("8.8.8.8"))
    reach.check("a.example", found("10.1.2.3", "8.8.8.8", "fd00::1", "::ffff:10.1.2.3"))
    reach.check("127.0.0.1", found("127.0.0.1"))
    for host, addresses in {
        "a.example": ("10.2.0.1",),
        "b.example": ("8.8.8.8", "127.0.0.1"),  # one inside is one too many
        "localhost": ("127.0.0.1",),  # allowed as an address, not for names that lead there
        "127.1": ("127.0.0.1",),
        "[fe80::1]": ("fe80::1%lo",),
    }.items():
        with pytest.raises(BadMessage) as e:
            reach.check(host, found(*addresses))
        assert addresses[-1] not in str(e.value)
        assert addresses[-1] in e.value.__notes__[0]


def test_the_notations_that_the_system_takes() -> None:
    for host in ("127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0x7f000001", "127.0.0.1"):
        assert {info[4][0] for info in numeric(host)} == {"127.0.0.1"}
    assert numeric("localhost") == []


async def test_through_a_proxy_an_address_is_looked_at_as_well() -> None:
    asked = []

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with backend(answers) as base:
        pool = Pool(None, proxies(base, []), 4, Reach())
        client = WebClient(pool, ClientOptions())
        for url in ("http://127.1/", "http://[::1]/", "https://169.254.169.254/"):
            with pytest.raises(BadMessage):
                await client.request("GET", url)
        assert not asked
        assert (await client.request("GET", "http://8.8.8.8/")).status == 204
        await pool.close()
    assert len(asked) == 1


def test_a_network_that_is_none_has_a_line(tmp_path: Path) -> None:
    route = """\
    routes:
      a:
        from: {http: {path: /a}}
        steps:
          - call: {http: {url: "{{ body.u }}", allow_hosts: ["*"], allow_networks: [10.0.0.1/8]}}
    """
    (one,) = load_text(route, tmp_path).diagnostics
    assert (one.line, one.message) == (5, "10.0.0.1/8 is no network")
