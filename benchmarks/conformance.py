"""What the empirical audit notices: ``python -m benchmarks.conformance [--repeats N] [--json FILE] [--method NAME]``.

Every method of per-record gradients is audited as it is and with each fault, so many times over with other seeds. A
correct run has to pass, a fault has to be caught; the bar is 19 in 20 for every fault and no false alarm.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.conformance_faults import EXPECTED_CHECK, FAULTS
from privacy.audit import MethodAudit, run_audit
from privacy.gradients.methods import METHODS

BAR = 0.95


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method with one fault: how many of ``repeats`` audits ended how.

    ``by_model`` counts, for each kind of model on its own, the audits in which the test that is there for the fault
    failed (without a fault: those in which any did); ``by_bound`` those in which the bound on epsilon alone did.
    ``bound``, ``claimed``, ``expected`` and ``seconds`` are medians, the seconds of a whole audit of the method.
    """

    method: str
    fault: str
    repeats: int
    consistent: int
    failed: int
    inconclusive: int
    by_model: dict[str, int]
    by_bound: int
    bound: float
    claimed: float
    expected: float
    seconds: float
    slowest: float

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.consistent == self.repeats if self.fault == "none" else self.failed >= BAR * self.repeats


def measure(method: str, fault: str, repeats: int) -> Row:
    """Audit one method so often, with a fault or ``"none"``."""
    audits: list[MethodAudit] = []
    for repeat in range(repeats):
        with FAULTS[fault]():
            audits += run_audit(method=method, seed=1000 * list(FAULTS).index(fault) + repeat).methods
    verdicts = [audit.verdict for audit in audits]
    runs = [audit.one_run for audit in audits if audit.one_run is not None]
    return Row(
        method=method,
        fault=fault,
        repeats=repeats,
        consistent=verdicts.count("CONSISTENT"),
        failed=verdicts.count("FAIL"),
        inconclusive=verdicts.count("INCONCLUSIVE"),
        by_model={
            case.model: sum(_noticed(audit, number, fault) for audit in audits)
            for number, case in enumerate(audits[0].cases)
        },
        by_bound=sum(run.verdict == "FAIL" for run in runs),
        bound=median(run.epsilon for run in runs),
        claimed=median(run.claimed for run in runs),
        expected=median(run.expected for run in runs),
        seconds=median(audit.seconds for audit in audits),
        slowest=max(audit.seconds for audit in audits),
    )


def _noticed(audit: MethodAudit, case: int, fault: str) -> bool:
    """Whether the test that is there for the fault failed."""
    expected = EXPECTED_CHECK.get(fault)
    return any(check.verdict == "FAIL" and expected in (None, check.name) for check in audit.cases[case].checks)


def table(rows: Sequence[Row]) -> Table:
    """The rows for people: correct runs that passed, faults that were caught."""
    shown = Table(box=SIMPLE)
    for title in ("method", *(fault if fault != "none" else "correct: passed" for fault in FAULTS), "epsilon >=", "s"):
        shown.add_column(title, justify="left" if title == "method" else "right")
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.fault: row for row in rows if row.method == method}
        counts = [f"{row.consistent if row.fault == 'none' else row.failed}/{row.repeats}" for row in own.values()]
        correct = own["none"]
        bound = f"{correct.bound:.2f} of {correct.claimed:.2f}"
        shown.add_row(method, *counts, bound, f"{correct.seconds:.1f}")
    return shown


def main() -> None:
    """Measure, print the table, and fail if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--method", choices=list(METHODS), action="append")
    arguments = parser.parse_args()
    logging.getLogger("opacus").setLevel(logging.ERROR)
    console = Console(width=120)
    rows = []
    for method in arguments.method or list(METHODS):
        for fault in FAULTS:
            row = measure(method, fault, arguments.repeats)
            rows.append(row)
            console.print(f"{method}, {fault}: {row.failed} failed, {row.consistent} passed, {row.seconds:.1f} s")
    console.print(table(rows))
    if arguments.json:
        found = [asdict(row) | {"ok": row.ok} for row in rows]
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if missed := [f"{row.method}, {row.fault}" for row in rows if not row.ok]:
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
