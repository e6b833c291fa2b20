"""What became of tests, for people, programs (JSON) and CI (JUnit XML); and what no test ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lxml import etree

from esb.errors import ConfigError, Diagnostic
from esb.outline import Part
from esb.testing.suite import Coverage, Result, Suite, files_of_tests


@dataclass
class Report:
    """results: of tests, in the order of their files; mistakes: by the files that could not run.
    files: of tests and of their routes."""

    results: list[Result] = field(default_factory=list)
    mistakes: dict[str, Sequence[Diagnostic]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    files: set[Path] = field(default_factory=set)

    @property
    def failed(self) -> list[Result]:
        """Those that did not pass."""
        return [result for result in self.results if not result.passed]

    @property
    def passed(self) -> bool:
        """Whether all ran and passed."""
        return not self.failed and not self.mistakes


def run_tests(
    paths: Sequence[Path],
    *,
    only: str = "",
    root: Path | None = None,
    told: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run the tests of the files that are named, or lie in folders that are.

    only: those whose name, or that of their route, contains it. root: as in `esb.config.load`.
    told: called after each.
    """
    report = Report()
    for file in files_of_tests(paths):
        report.files.add(file)
        try:
            suite = Suite(file, root=root)
        except ConfigError as e:
            report.mistakes[str(file)] = e.diagnostics
            continue
        report.files.update(suite.project.files)
        for test in suite.tests.values():
            if only.lower() in test.name.lower() or only == test.route:
                report.results.append(suite.run(test, report.coverage))
                told(report.results[-1])
    return report


# --- for programs ---------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    names = ("file", "line", "column", "code", "message", "hint")
    return {
        "tests": [
            {
                "file": result.file,
                "line": result.line,
                "name": result.name,
                "passed": result.passed,
                "seconds": round(result.seconds, 4),
                "took": round(result.took, 3),
                "failures": [failure._asdict() for failure in result.failures],
                "last_step": result.last,
            }
            for result in report.results
        ],
        "mistakes": [
            {name: getattr(one, name) for name in names}
            for found in report.mistakes.values()
            for one in found
        ],
        "coverage": [row._asdict() for row in covered(report.coverage)],
    }


def as_junit(report: Report) -> bytes:
    """The report as JUnit XML, which CI servers read."""
    root = etree.Element("testsuites", name="esb test")
    suites: dict[str, etree._Element] = {}
    for result in report.results:
        case = etree.SubElement(
            _suite(root, suites, result.file),
            "testcase",
            name=result.name,
            classname=result.file,
            file=result.file,
            line=str(result.line),
            time=f"{result.seconds:.4f}",
        )
        if result.failures:
            first = result.failures[0].message.splitlines()[0]
            failure = etree.SubElement(case, "failure", message=_legal(first))
            failure.text = _legal("\n".join(details(result)))
    for file, found in report.mistakes.items():
        suite = _suite(root, suites, file)
        case = etree.SubElement(suite, "testcase", name="(the file)", classname=file)
        error = etree.SubElement(case, "error", message=_legal(found[0].message))
        error.text = _legal("\n".join(map(str, found)))
    for suite in root:
        suite.set("tests", str(len(suite)))
        for kind in ("failure", "error"):
            suite.set(f"{kind}s", str(len(suite.findall(f"*/{kind}"))))
        suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite):.4f}")
    written: bytes = etree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _suite(root: etree._Element, suites: dict[str, etree._Element], file: str) -> etree._Element:
    if file not in suites:
        suites[file] = etree.SubElement(root, "testsuite", name=file)
    return suites[file]


def _legal(text: str) -> str:
    """Text without what XML cannot hold."""
    return "".join(c for c in text if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff"))


# --- for people -----------------------------------------------------------------------------------


def details(result: Result) -> list[str]:
    """What is to be told of a test that failed."""
    lines = [line for failure in result.failures for line in str(failure).splitlines()]
    lines.append(f"the last step that ran: {result.last}" if result.last else "no step ran")
    lines += [f"log: {line}" for line in result.log[-10:]]
    return lines


# --- coverage -------------------------------------------------------------------------------------


class Row(NamedTuple):
    """How much of a route ran in tests: of its steps, and of the ways past all branches of those
    that choose. missed: what never did, with its line; of a branch that was never taken the branch
    alone."""

    file: str
    route: str
    ran: int
    steps: int
    missed: list[str]

    @property
    def percent(self) -> float:
        """How much ran."""
        return 100.0 * self.ran / self.steps if self.steps else 100.0


def covered(coverage: Coverage) -> list[Row]:
    """How much of each route ran."""
    rows = []
    for (file, route), outline in sorted(coverage.parts.items(), key=lambda item: item[0]):
        passed = Counter(
            {place: n for (f, r, place), n in coverage.passed.items() if (f, r) == (file, route)}
        )
        steps = [part for part in outline.walk() if part.kind == "step"]
        ways = [bool(passed[part.place]) for part in steps]
        ways += [_went_past(part, passed) for part in steps if _may_go_past(part)]
        rows.append(Row(file, route, sum(ways), len(ways), list(_missed(outline, passed))))
    return rows


def _may_go_past(part: Part) -> bool:
    """Whether a message may take none of the branches of a step, and that can be told."""
    branches = getattr(part.options, "root", ())
    return (
        part.name == "choose"
        and all(branch.when is not None and branch.steps for branch in branches)
        and bool(branches)
    )


def _went_past(part: Part, passed: Counter[str]) -> bool:
    taken = sum(passed[branch.parts[0].place] for branch in part.parts if branch.parts)
    return passed[part.place] > taken


def percentage(rows: Iterable[Row]) -> float:
    """How much ran of all routes together."""
    rows = list(rows)
    steps = sum(row.steps for row in rows)
    return 100.0 * sum(row.ran for row in rows) / steps if steps else 100.0


def _missed(part: Part, passed: Counter[str]) -> Iterator[str]:
    steps = [inner for inner in part.parts if inner.kind == "step"]
    where = f"{part.file}:{part.line}"
    if part.kind == "steps" and steps and part.place != "steps" and not passed[steps[0].place]:
        yield f"{where} the branch {part.place}"
        return
    if part.kind == "step" and not passed[part.place]:
        yield f"{where} {part.place}"
        return
    for inner in part.parts:
        yield from _missed(inner, passed)
    if part.kind == "step" and _may_go_past(part) and not _went_past(part, passed):
        yield f"{where} the way past all branches of {part.place}"
