"""How long a bus of ten HTTP routes takes from its start to the first answer, and its memory:
alone, with 2 and 4 workers, and nginx beside it, in turns.

    python bench/start.py [--rounds 5]

Memory is shared between workers that were forked from one process, so two figures are told: PSS,
in which what is shared counts once in all, and RSS, in which it counts as often as it is there;
both of all processes together, after every worker has answered.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import load
import nginx
from backend import backend
from processes import Process, choose_cores, free_port, running, until
from scenarios import all_scenarios

ROUTES = 10
WORKERS = (1, 2, 4)
DIRECT = next(one for one in all_scenarios() if one.name == "direct-500")
REQUESTS = 60
"""So many are sent before memory is looked at, so that each worker has had some."""


def command(workers: int, folder: Path, port: int, far: int) -> list[str]:
    """What runs the bus, or nginx if `workers` is 0."""
    if not workers:
        return nginx.write_proxy(folder / "nginx", port, far)
    routes = "".join(
        f"  echo{number or ''}:\n"
        f"    from: {{http: {{path: /echo{number or ''}}}}}\n"
        f'    steps: [{{call: {{http: {{url: "http://127.0.0.1:{far}/echo"}}}}}}]\n'
        for number in range(ROUTES)
    )
    file = folder / "routes.yaml"
    file.write_text(f"listen: {{port: {port}}}\nadmin: {{port: 0}}\nroutes:\n{routes}")
    esb = str(Path(sys.executable).with_name("esb"))
    return [esb, "run", "--json", str(file), *(["--workers", str(workers)] * (workers > 1))]


def measured(workers: int, folder: Path, far: int, core: int) -> tuple[float, float, float]:
    """Seconds to the first answer; PSS and RSS in MB."""
    port = free_port()
    request = DIRECT.request
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(__file__).parent.parent / ".tools" / "bench-bytecode"),
    }
    process = Process(command(workers, folder, port, far), core, folder / "log.txt", compiled)
    with running(process):

        def served() -> bool:
            process.alive()
            with suppress(OSError):
                return load.ask(port, request)[0] == 200
            return False

        until(served, "an answer", every=0.002)
        took = time.monotonic() - process.started
        for _ in range(REQUESTS):
            load.ask(port, request)
        return took, sum(_pss(pid) for pid in process.tree()) / 1e3, process.memory() / 1e6


def _pss(pid: int) -> int:
    """Kilobytes (proc(5), smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _rows(rounds: int) -> Iterator[str]:
    found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in (0, *WORKERS)}
    cores = choose_cores()
    with tempfile.TemporaryDirectory() as name:
        folder, far = Path(name), free_port()
        with backend(far, DIRECT, cores.load, folder):
            for _ in range(rounds):
                for workers, of_one in found.items():
                    own = Path(tempfile.mkdtemp(dir=folder))
                    of_one.append(measured(workers, own, far, cores.measured))
    middle = {
        workers: [statistics.median(column) for column in zip(*of_one, strict=True)]
        for workers, of_one in found.items()
    }
    alone = middle[1]
    yield "| | s to the first answer | PSS in MB | RSS in MB | PSS to one process |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for workers, (took, pss, rss) in middle.items():
        name = f"esb, {workers} worker{'s' * (workers > 1)}" if workers else "nginx"
        yield f"| {name} | {took:.2f} | {pss:.0f} | {rss:.0f} | {pss / alone[1]:.2f} |"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    for row in _rows(parser.parse_args().rounds):
        print(row)


if __name__ == "__main__":
    main()
