"""The SOAP codec beside zeep and raw lxml: part of `make bench`, or alone.

    bench/codec.py [--quick]

What is written and read are whole envelopes, from and to plain data. The columns:

    esb            as the bus does it. Writing, the codec checks by its types; reading, libxml2
                   checks by the schema, and what it finds valid the codec takes over as it is
    esb, alone     reading where libxml2 cannot say: the codec checks everything itself
    esb, checked   writing, and what was written parsed and checked by libxml2 (the bus trusts its
                   codec there)
    zeep           its objects to a tree to bytes, and back; it checks little
    lxml           a tree that is there to bytes, bytes to a tree: no data, the floor
    lxml, checked  bytes to a tree, checked by libxml2
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import orders
from lxml import etree
from zeep import Client

from esb_soap.envelope import read_envelope, write_envelope
from esb_soap.wsdl import load_wsdl

Job = Callable[[], object]
SIZES = {"small": 2, "1,000 elements": 140, "100 KB": 430}
"""Lines of an order."""


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """CPU microseconds by contestant, medians of rounds in turns; one entry for each size and
    direction, with the ratios to zeep's time."""
    client: Any = Client(str(orders.WSDL))  # type: ignore[no-untyped-call]
    found = []
    for size, lines in SIZES.items():
        writing, reading, facts = _jobs(client, lines)
        for direction, jobs in (("write", writing), ("read", reading)):
            times = _measure(jobs, rounds=3 if quick else 15, seconds=0.005 if quick else 0.1)
            microseconds = {name: round(took * 1e6, 2) for name, took in times.items()}
            ratios = {n: round(times["zeep"] / took, 2) for n, took in times.items() if n != "zeep"}
            found.append(
                {"size": size, "direction": direction, **facts}
                | {"microseconds": microseconds, "times_zeep": ratios}
            )
    return found


def _jobs(client: Any, lines: int) -> tuple[dict[str, Job], dict[str, Job], dict[str, int]]:
    wsdl = load_wsdl(orders.WSDL)
    operation = orders.place_order()
    output, validator = operation.output, wsdl.validator
    assert output is not None
    assert output.gate is not None, "libxml2 is asked first"
    alone = dataclasses.replace(output, gate=None)
    assert validator is not None
    data = orders.order(lines)
    raw = orders.soap_reply(lines)
    tree = etree.fromstring(raw)
    theirs = client.service._binding.get("placeOrder")
    zeeps = _for_zeep(data)

    def write() -> bytes:
        return write_envelope("1.1", operation.input.write(data).body)

    def checked(raw: bytes) -> etree._Element:
        root = etree.fromstring(raw)
        validator.assertValid(root[-1][0])
        return root

    def zeep_writes() -> bytes:
        message = client.create_message(client.service, "placeOrder", **zeeps)
        written: bytes = etree.tostring(message)
        return written

    def zeep_reads() -> Any:
        return theirs.process_reply(etree.fromstring(raw))

    writing: dict[str, Job] = {
        "esb": write,
        "esb, checked": lambda: checked(write()),
        "zeep": zeep_writes,
        "lxml": lambda: etree.tostring(tree),
    }
    reading: dict[str, Job] = {
        "esb": lambda: output.read(read_envelope(raw).body),
        "esb, alone": lambda: alone.read(read_envelope(raw).body),
        "zeep": zeep_reads,
        "lxml": lambda: etree.fromstring(raw),
        "lxml, checked": lambda: checked(raw),
    }
    _same(data, output.read(read_envelope(raw).body), "reading")
    _same(
        operation.input.read(read_envelope(write()).body),
        operation.input.read(read_envelope(zeep_writes()).body),
        "writing",
    )
    assert len(zeep_reads().line) == lines
    elements = sum(1 for _ in tree[0][0].iter("*"))
    return writing, reading, {"elements": elements, "bytes": len(raw)}


def _for_zeep(data: Any) -> Any:
    """The same data with zeep's names: its attributes have no @."""
    if isinstance(data, dict):
        return {key.lstrip("@"): _for_zeep(value) for key, value in data.items()}
    return [_for_zeep(one) for one in data] if isinstance(data, list) else data


def _same(one: object, other: object, what: str) -> None:
    if one != other:
        raise AssertionError(f"{what}: the contestants do not do the same")


def _measure(jobs: dict[str, Job], rounds: int, seconds: float) -> dict[str, float]:
    """Seconds a call, the median of `rounds`, in each of which all take their turn.

    CPU seconds: what the clock shows when nobody else is at work, and still true when somebody is.
    """
    counts = {name: max(1, int(seconds / _once(job, 1))) for name, job in jobs.items()}
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            took[name].append(_once(job, counts[name]))
    return {name: median(found) for name, found in took.items()}


def _once(job: Job, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        job()
    return (time.process_time() - began) / count


def main() -> int:
    """The command line; the exit status."""
    import report

    parser = argparse.ArgumentParser(description="Measure the SOAP codec beside zeep and lxml.")
    parser.add_argument("--quick", action="store_true", help="short; no figures to quote")
    print(report.codec_table(run(quick=parser.parse_args().quick)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
