"""Results as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def page(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    parts = ["# Results", ""]
    if result["quick"]:
        parts += ["**A quick run: it shows that the bench works, not how fast anything is.**", ""]
    parts += [
        f"Made {result['made']} by `bench/run.py`. Ratios count, not digits: another machine has "
        "other digits. [How to read and repeat this](../README.md).",
        "",
        _machine(result),
        "",
    ]
    if result["scenarios"]:
        parts += ["![Ratios](latest.svg)", "", "## To nginx as reverse proxy", ""]
        parts += [_ratios(result["scenarios"]), "", "## Figures", "", _figures(result["scenarios"])]
    if result.get("sweep"):
        parts += ["", "## Few connections and many", "", _sweep(result["sweep"])]
    if result.get("failed"):
        parts += ["", "## Without figures", ""]
        parts += [f"* {who}: {why.splitlines()[0]}" for who, why in result["failed"].items()]
    if "store" in result:
        parts += ["", "## The durable store", "", store_table(result["store"])]
    if "codec" in result:
        parts += ["", "## The SOAP codec", "", codec_table(result["codec"])]
    return "\n".join(parts) + "\n"


def _machine(result: dict[str, Any]) -> str:
    m, s = result["machine"], result["settings"]
    cores = (
        "one core for all" if m["one_core_for_all"] else "one for the contestant, one for the rest"
    )
    others = [
        figures["others"]
        for scenario in result["scenarios"]
        for figures in scenario["medians"].values()
        if "others" in figures
    ]
    noise = (
        f"; others had up to {max(others):.0%} of the contestant's core (medians)" if others else ""
    )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"* Machine: {m['cores']} cores of {m['cpu']} ({cores}), {m['memory_gb']} GB, "
        f"Linux {m['kernel']}, fsync {m['fsync_us']:,} µs{noise}\n"
        f"* Versions: {versions}\n"
        f"* {s['rounds']} round{'s' if s['rounds'] > 1 else ''} in turns, "
        f"{s['seconds']} s each, {s['connections']} connections; "
        f"{s['messages']:,} messages a queue; medians"
    )


def _ratios(scenarios: Sequence[dict[str, Any]]) -> str:
    rows = []
    for scenario in scenarios:
        for name, ratio in scenario["to_nginx"].items():
            if name != "backend":
                keys = ("rate", "p50", "p99", "p999", "cpu", "memory", "start")
                cells = [f"{ratio[key]:.2f}" if key in ratio else "" for key in keys]
                rows.append([scenario["title"], name, *cells])
    head = ["scenario", "who", "messages/s", "p50", "p99", "p99.9", "CPU", "memory", "start-up"]
    return _table(head, rows)


def _figures(scenarios: Sequence[dict[str, Any]]) -> str:
    rows = []
    formats = {"rate": ",.0f", "p50": ".2f", "p99": ".2f", "p999": ".2f", "cpu": ",.1f",
               "busy": ".0%", "memory": ".0f", "start": ".2f"}  # fmt: skip
    for scenario in scenarios:
        for name, figures in scenario["medians"].items():
            cells = [f"{figures[k]:{f}}" if k in figures else "" for k, f in formats.items()]
            rates = scenario["rates"][name]
            cells[0] += f" ({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
            cells.insert(5, f"{1e6 / figures['cpu']:,.0f}" if "cpu" in figures else "")
            rows.append([scenario["title"], name, *cells])
    head = ["scenario", "who", "messages/s", "p50 ms", "p99 ms", "p99.9 ms",
            "CPU ms per 1,000", "messages per CPU second", "of its core", "RSS MB",
            "start-up s"]  # fmt: skip
    return _table(head, rows)


def _sweep(found: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            one["title"],
            f"{one['connections']:,}",
            name,
            f"{figures['rate'] / one['medians']['nginx']['rate']:.2f}",
            f"{figures['rate']:,.0f}",
            *(f"{figures[key]:.2f}" for key in ("p50", "p99", "p999")),
        ]
        for one in found
        for name, figures in one["medians"].items()
    ]
    head = ["scenario", "connections", "who", "to nginx", "messages/s", "p50 ms", "p99 ms",
            "p99.9 ms"]  # fmt: skip
    return _table(head, rows)


def codec_table(found: Sequence[dict[str, Any]]) -> str:
    """The codec's figures in Markdown: microseconds, and how many times as fast as zeep."""
    rows = []
    for one in found:
        for name, took in one["microseconds"].items():
            times = one["times_zeep"].get(name, 1.0)
            size = f"{one['size']} ({one['elements']:,} elements, {one['bytes']:,} B)"
            rows.append([size, one["direction"], name, f"{took:,.1f}", f"{times:.1f}"])
    return _table(["message", "", "who", "µs", "times as fast as zeep"], rows)


def store_table(found: Sequence[dict[str, Any]]) -> str:
    """The store's figures in Markdown, and what of each message's time goes into its fsync."""
    rows = [
        [
            one["mode"],
            str(one["callers"]),
            f"{one['rate']:,}",
            f"{one['without_fsync']:,}",
            f"{one['ratio']:.2f}",
            f"{one['fsync_us']:,.0f}",
        ]
        for one in found
    ]
    head = [
        "mode",
        "callers",
        "messages/s",
        "without fsync",
        "ratio",
        "fsync's share, µs a message",
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
