"""The cost of a sealed round against Flower's SecAgg+: ``python -m benchmarks.secagg [--json FILE] [--quick]``.

The same cohorts, thresholds and drops (before the upload) on both sides, in one process and run. One member is timed
for its whole work, on a machine that has verified nothing yet; the server from everybody's bytes to the sum, which both
sides have to get right to the last bit. Milliseconds by the clock, the least of several turns. Flower's slow parts run
once, so the two servers are compared by processor time, which other work on the machine does not lengthen.
``upload_over_keystream`` compares the upload with adding the keystreams of as many masks to a vector and nothing else,
with the same number of threads, in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.secagg_flower import Cohort
from benchmarks.secagg_sealed import Federation

DROPS = 5
UPLOAD_BAR, SERVER_BAR = 1.5, 50
# Where the server's bar is set: everybody's cohort and model of the design.
BAR_AT = (51, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: milliseconds, and bytes that a member uploads for every parameter."""

    n: int
    threshold: int
    parameters: int
    drops: int
    threads: int
    client_setup_ms: float
    client_encode_ms: float
    client_upload_ms: float
    client_unmask_ms: float
    server_ms: float
    server_cpu_ms: float
    keystream_ms: float
    keystream_one_thread_ms: float
    upload_over_keystream: float
    bytes_per_parameter: float
    flower_client_ms: float
    flower_server_ms: float
    flower_server_cpu_ms: float

    @property
    def client_ms(self) -> float:
        """All that a member does in its first round, as ``flower_client_ms`` counts it."""
        return self.client_setup_ms + self.client_encode_ms + self.client_upload_ms + self.client_unmask_ms


def measure(n: int, sizes: Sequence[int], console: Console, seconds: float) -> Iterator[Row]:
    """Measure cohorts of ``n`` members, without drops and with as many as the threshold allows, up to :data:`DROPS`.

    Raises:
        WrongSum: one of the two sides has added wrong.
    """
    console.print(f"{n} members: set-up")
    federation = Federation(n)
    threshold = federation.threshold
    most = min(DROPS, n - threshold)
    if most < DROPS:
        console.print(f"{n} members, threshold {threshold}: at most {most} may drop, so {most} do")
    cohort = Cohort(n, threshold, most)
    for size in sizes:
        console.print(f"{n} members, {size:,} parameters: SecAgg+ uploads")
        collect, sent, plain = cohort.uploads(size, seconds)
        for drops in (0, most):
            console.print(f"{n} members, {size:,} parameters, {drops} drop")
            sealed = federation.measure(size, drops, seconds)
            served = cohort.server(drops, sent, plain, seconds)
            flower = cohort.setup + collect + cohort.unmask(drops)
            yield Row(
                n=n,
                threshold=threshold,
                parameters=size,
                drops=drops,
                threads=sealed.threads,
                client_setup_ms=round(federation.setup.wall, 2),
                client_encode_ms=round(sealed.encode.wall, 2),
                client_upload_ms=round(sealed.upload.wall, 2),
                client_unmask_ms=round(sealed.unmask.wall, 2),
                server_ms=round(sealed.server.wall, 2),
                server_cpu_ms=round(sealed.server.cpu, 2),
                keystream_ms=round(sealed.keystream.wall, 2),
                keystream_one_thread_ms=round(sealed.keystream_alone.wall, 2),
                upload_over_keystream=round(sealed.upload.wall / sealed.keystream.wall, 2),
                bytes_per_parameter=round(sealed.size / size, 4),
                flower_client_ms=round(flower.wall, 1),
                flower_server_ms=round(served.wall, 1),
                flower_server_cpu_ms=round(served.cpu, 1),
            )


def shown(rows: Sequence[Row]) -> Table:
    """Return the rows for people, with what was asked of them."""
    table = Table(title="One sealed round, and Flower's SecAgg+: ms", box=SIMPLE, padding=0, collapse_padding=True)
    for heading in ("n, t", "parameters", "drops", "set-up", "encode", "upload", "unmask", "server"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("Flower client", "server"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times, missed = row.flower_server_cpu_ms / row.server_cpu_ms, " MISSED"
        slow = row.upload_over_keystream > UPLOAD_BAR
        behind = (row.n, row.parameters) == BAR_AT and times < SERVER_BAR
        table.add_row(
            *(f"{row.n}, {row.threshold}", f"{row.parameters:,}", str(row.drops)),
            *(f"{row.client_setup_ms:.1f}", f"{row.client_encode_ms:.1f}"),
            f"{row.client_upload_ms:.1f} /{row.upload_over_keystream:.2f}{missed if slow else ''}",
            *(f"{row.client_unmask_ms:.1f}", f"{row.server_ms:.0f}"),
            f"{row.flower_client_ms:,.0f} x{row.flower_client_ms / row.client_ms:.0f}",
            f"{row.flower_server_ms:,.0f} x{times:.0f}{missed if behind else ''}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--quick", action="store_true", help="11 members and 100,000 parameters only")
    options = parser.parse_args(arguments)
    progress = Console(stderr=True)
    cohorts, sizes = ([11], [100_000]) if options.quick else ([11, 51], [100_000, 1_000_000])
    rows = [row for n in cohorts for row in measure(n, sizes, progress, 0.3 if options.quick else 2.0)]
    # Wide enough for the table where nobody looks at a terminal.
    console = Console(width=max(100, progress.width))
    console.print(shown(rows))
    console.print(f"/: times the keystream and add of its masks, with as many threads; at most {UPLOAD_BAR}.")
    console.print(
        f"x: times ours, servers by processor time; at least {SERVER_BAR} at {BAR_AT[0]} members and "
        f"{BAR_AT[1]:,} parameters."
    )
    console.print(f"Uploads take {max(row.bytes_per_parameter for row in rows):.2f} bytes a parameter, or less.")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
