"""Deal one data set out to simulated departments.

The ways to differ follow Hsu, Qi & Brown 2019 (arXiv 1909.06335) and Li et al. 2022 (arXiv 2102.02079): label
skew, quantity skew, and the natural split by a column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

PartitionKind: TypeAlias = Literal["iid", "dirichlet", "quantity", "column"]
Indices: TypeAlias = npt.NDArray[np.int64]

MIN_RECORDS: Final = 8
_ATTEMPTS: Final = 200
OTHERS: Final = "others"


class PartitionError(ValueError):
    """Records cannot be dealt out as asked."""


def partition(
    targets: npt.NDArray[Any],
    *,
    kind: PartitionKind,
    departments: int | None = None,
    alpha: float = 0.5,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    minimum: int = MIN_RECORDS,
) -> list[Indices]:
    """Return the records of each department: disjoint, complete and shuffled, int64 index arrays.

    Args:
        targets: ``(N,)`` labels; their values matter for "dirichlet" alone.
        kind: "iid": equal sizes (to one record), at random. "dirichlet": each class is shared out by its own
            draw from Dirichlet(alpha, …, alpha), as flwr-datasets' ``DirichletPartitioner`` does without
            self-balancing. "quantity": sizes by one such draw, records at random. "column": by ``groups``.
        departments: how many; for "column" it may be left out, and a number below that of the values puts the
            rarest together into the last department.
        alpha: small is skewed, large is even.
        groups: "column" only: one value per record; departments come in the order of ``group_names``.
        seed: the same seed gives the same departments.
        minimum: records every department gets; draws that leave less are repeated.

    Raises:
        PartitionError: there are too few records, or the draws are too skewed to give everyone ``minimum``.
    """
    rng = np.random.default_rng(seed)
    if kind == "column":
        parts = _by_column(len(targets), groups, departments)
        _check_groups(parts, minimum)
    else:
        if departments is None or departments < 1:
            raise PartitionError(f"departments = {departments}: kind = {kind!r} needs a number of 1 or more")
        if departments * minimum > len(targets):
            raise PartitionError(
                f"departments = {departments}: {len(targets)} records cannot give each {minimum}; use fewer"
            )
        if not 0.0 < alpha < np.inf:
            raise PartitionError(f"alpha = {alpha}: give a positive number; small is skewed")
        drawn = _enough(lambda: _DRAWS[kind](targets, departments, alpha, rng), minimum)
        if drawn is None:
            raise PartitionError(
                f"alpha = {alpha}: {_ATTEMPTS} draws for {departments} departments all left one with "
                f"fewer than {minimum} records; raise alpha or use fewer departments"
            )
        parts = drawn
    return [rng.permutation(part) for part in parts]


def department_names(
    *, kind: PartitionKind, departments: int | None = None, groups: Sequence[str] | None = None
) -> list[str]:
    """Return a name for each department of ``partition``: the column's values, or ``department-001``, …"""
    if kind == "column":
        return group_names(groups or (), departments)
    count = departments or 0
    return [f"department-{number:0{max(3, len(str(count)))}d}" for number in range(1, count + 1)]


def group_names(groups: Sequence[str], departments: int | None = None) -> list[str]:
    """Return the values of a column as departments, sorted; the rarest become "others" if there are too many.

    Raises:
        PartitionError: there are fewer values than departments.

    >>> group_names(["b", "a", "b", "c", "b", "a"]), group_names(["b", "a", "b", "c", "b", "a"], 2)
    (['a', 'b', 'c'], ['b', 'others'])
    """
    counts = Counter(groups)
    if departments is None or departments == len(counts):
        return sorted(counts)
    if not 1 <= departments <= len(counts):
        raise PartitionError(
            f"departments = {departments}: the column has {len(counts)} values; give that many or fewer"
        )
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    others = OTHERS
    while others in counts:
        others += "_"
    return [*sorted(ranked[: departments - 1]), others]


def _by_column(records: int, groups: Sequence[str] | None, departments: int | None) -> list[Indices]:
    """Collect the records of each value."""
    if groups is None or len(groups) != records:
        raise PartitionError("groups: kind = 'column' needs one value per record; set partition.column")
    names = group_names(groups, departments)
    places = {name: place for place, name in enumerate(names)}
    where = np.fromiter((places.get(group, len(names) - 1) for group in groups), np.int64, records)
    return [np.flatnonzero(where == place) for place in range(len(names))]


def _check_groups(parts: Sequence[Indices], minimum: int) -> None:
    """Refuse a column with a value that is too rare."""
    small = sum(len(part) < minimum for part in parts)
    if small:
        raise PartitionError(
            f"{small} of {len(parts)} values of the column have fewer than {minimum} records; "
            "set partition.departments to a smaller number, and the rarest values share one"
        )


def _enough(draw: Callable[[], list[Indices]], minimum: int) -> list[Indices] | None:
    """Draw until every department has enough records."""
    for _ in range(_ATTEMPTS):
        parts = draw()
        if min(map(len, parts)) >= minimum:
            return parts
    return None


def _iid(targets: npt.NDArray[Any], departments: int, _alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Deal records out evenly."""
    return np.array_split(rng.permutation(len(targets)), departments)


def _dirichlet(targets: npt.NDArray[Any], departments: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Share out each class by its own Dirichlet draw."""
    if targets.ndim != 1 or targets.dtype.kind == "f":
        raise PartitionError("kind = 'dirichlet' needs class labels; use 'iid' or 'quantity' for a regression")
    shares: list[list[Indices]] = [[] for _ in range(departments)]
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        proportions = rng.dirichlet(np.full(departments, alpha))
        for share, part in zip(shares, _cut(members, proportions), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def _quantity(targets: npt.NDArray[Any], departments: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Share out all records by one Dirichlet draw."""
    return _cut(rng.permutation(len(targets)), rng.dirichlet(np.full(departments, alpha)))


def _cut(members: Indices, proportions: npt.NDArray[np.float64]) -> list[Indices]:
    """Cut an array at the cumulated proportions, rounded down."""
    cuts = (np.cumsum(proportions) * len(members)).astype(np.int64)[:-1]
    return np.split(members, cuts)


_Draw: TypeAlias = Callable[[npt.NDArray[Any], int, float, np.random.Generator], list[Indices]]
_DRAWS: Final[dict[str, _Draw]] = {"iid": _iid, "dirichlet": _dirichlet, "quantity": _quantity}
