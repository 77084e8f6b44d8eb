"""Dealing records out: disjoint, complete, reproducible, and skewed as the distributions say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.partition import (
    PartitionError,
    PartitionKind,
    department_names,
    group_names,
    partition,
)

KINDS: list[PartitionKind] = ["iid", "dirichlet", "quantity"]


def labels(count: int, classes: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(60, 300),
    departments=st.integers(1, 5),
    alpha=st.floats(0.5, 100),
    seed=st.integers(0, 2**32),
)
def test_disjoint_complete_large_enough_and_reproducible(
    kind: PartitionKind, count: int, departments: int, alpha: float, seed: int
) -> None:
    targets = labels(count)
    parts = partition(targets, kind=kind, departments=departments, alpha=alpha, seed=seed, minimum=2)
    assert len(parts) == departments
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all(len(part) >= 2 and part.dtype == np.int64 for part in parts)
    again = partition(targets, kind=kind, departments=departments, alpha=alpha, seed=seed, minimum=2)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=60), st.integers(1, 5))
def test_columns_are_disjoint_and_complete(groups: list[str], departments: int) -> None:
    count = len(set(groups))
    targets = np.zeros(len(groups), np.int64)
    if departments > count:
        with pytest.raises(PartitionError, match=f"the column has {count} values"):
            partition(targets, kind="column", departments=departments, groups=groups, minimum=1)
        return
    parts = partition(targets, kind="column", departments=departments, groups=groups, minimum=1)
    names = group_names(groups, departments)
    assert len(parts) == len(names) == departments
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    for name, part in zip(names, parts, strict=True):
        values = {groups[index] for index in part}
        assert values == {name} if name != "others" else len(values) == count - departments + 1


def test_a_value_called_others_keeps_its_department() -> None:
    groups = ["others"] * 10 + ["a"] * 2 + ["b"] * 2
    assert group_names(groups, 2) == ["others", "others_"]
    parts = partition(np.zeros(14), kind="column", departments=2, groups=groups, minimum=1)
    assert [len(part) for part in parts] == [10, 4]


def test_iid_is_even_and_shuffled() -> None:
    parts = partition(labels(103), kind="iid", departments=4, seed=1)
    assert sorted(map(len, parts)) == [25, 26, 26, 26]
    assert parts[0].tolist() != sorted(parts[0].tolist())
    assert (partition(labels(103), kind="iid", departments=4, seed=2)[0][:25] != parts[0][:25]).any()


def reference_sizes(targets: np.ndarray, departments: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Class counts per department by the published procedure: one Dirichlet draw per class, cut and dealt."""
    counts = np.zeros((departments, targets.max() + 1))
    for label in range(targets.max() + 1):
        members = int((targets == label).sum())
        cuts = (np.cumsum(rng.dirichlet([alpha] * departments)) * members).astype(int)[:-1]
        counts[:, label] = np.diff([0, *cuts, members])
    return counts


@pytest.mark.parametrize("alpha", [0.3, 1.0, 10.0])
def test_dirichlet_follows_the_reference_distribution(alpha: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    targets = labels(600, 3)
    rng = np.random.default_rng(5)
    ours, theirs = [], []
    for seed in range(300):
        parts = partition(targets, kind="dirichlet", departments=3, alpha=alpha, seed=seed, minimum=0)
        ours += [np.bincount(targets[part], minlength=3)[label] for part in parts for label in range(3)]
        theirs += reference_sizes(targets, 3, alpha, rng).ravel().tolist()
    # One statistic per draw would be independent; the first department's counts are enough.
    assert scipy_stats.ks_2samp(ours[::9], theirs[::9]).pvalue > 1e-3
    assert abs(np.std(ours) - np.std(theirs)) < 0.1 * np.std(theirs)


def test_small_alpha_skews_labels_and_large_alpha_does_not() -> None:
    targets = labels(2000)

    def largest_share(alpha: float) -> float:
        parts = partition(targets, kind="dirichlet", departments=4, alpha=alpha, seed=3)
        return float(np.mean([np.bincount(targets[part]).max() / len(part) for part in parts]))

    assert largest_share(1000.0) < 0.35
    assert largest_share(0.1) > 0.6


def test_quantity_skews_sizes_but_not_labels() -> None:
    targets = labels(4000, 2)
    parts = partition(targets, kind="quantity", departments=4, alpha=0.5, seed=1)
    sizes = sorted(map(len, parts))
    assert sizes[-1] > 3 * sizes[0]
    assert all(abs(targets[part].mean() - 0.5) < 0.12 for part in parts if len(part) > 200)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"kind": "iid"}, "departments = None"),
        ({"kind": "iid", "departments": 0}, "1 or more"),
        ({"kind": "iid", "departments": 13}, "100 records cannot give each 8"),
        ({"kind": "quantity", "departments": 12, "alpha": 0.01}, "raise alpha or use fewer"),
        ({"kind": "dirichlet", "departments": 2, "alpha": 0.0}, "alpha = 0.0"),
        ({"kind": "dirichlet", "departments": 2, "alpha": float("nan")}, "alpha = nan"),
        ({"kind": "column"}, "one value per record"),
        ({"kind": "column", "groups": ["a"] * 99}, "one value per record"),
        ({"kind": "column", "groups": ["a"] * 95 + ["b"] * 5}, "1 of 2 values"),
    ],
)
def test_impossible_requests(arguments: dict[str, object], part: str) -> None:
    with pytest.raises(PartitionError, match=part):
        partition(labels(100), **arguments)  # type: ignore[arg-type]  # mixed on purpose


def test_dirichlet_needs_classes() -> None:
    with pytest.raises(PartitionError, match="regression"):
        partition(np.linspace(0, 1, 100), kind="dirichlet", departments=2)


def test_names() -> None:
    assert department_names(kind="iid", departments=2) == ["department-001", "department-002"]
    assert department_names(kind="iid", departments=1000)[0] == "department-0001"
    assert department_names(kind="column", groups=["b", "a", "b"]) == ["a", "b"]
