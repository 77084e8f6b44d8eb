"""Secure randomness: distributions, independence, and the ways a keystream could be repeated."""

from __future__ import annotations

import copy
import math
import os
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.errors import BadPlan
from privacy.metrics import metric_release
from privacy.noise import SecureRandom


def seeded(*context: int | str | bytes) -> SecureRandom:
    return SecureRandom.seeded(7, *context)


def test_gaussians_are_gaussian() -> None:
    values = seeded("normal").normal64(400_000, 3.0) / 3.0
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / math.sqrt(400_000)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / 400_000)
    assert abs(stats.kurtosis(values)) < 4 * math.sqrt(24 / 400_000)
    tail = (np.abs(values) > 4).sum()
    assert stats.poisson.cdf(tail, 400_000 * 2 * stats.norm.sf(4)) == pytest.approx(0.5, abs=0.499)


def test_neighbouring_gaussians_are_uncorrelated() -> None:
    """Box-Muller makes pairs; the halves of a pair and consecutive values must not be related."""
    values = seeded("pairs").normal64(65_536, 1.0)
    halves = values.reshape(2, -1)
    for a, b in ((halves[0], halves[1]), (values[:-1], values[1:])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))
        assert abs(np.corrcoef(a**2, b**2)[0, 1]) < 4 / math.sqrt(len(a))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 65_535, 65_536, 65_537, 200_001])
def test_every_length_is_filled(n: int) -> None:
    values = seeded(n).normal64(n, 1.0)
    assert values.shape == (n,)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) == n


def test_shapes_and_types() -> None:
    random = seeded()
    assert random.normal((2, 3), 1.0).dtype == torch.float32
    assert random.normal((2, 3), 1.0).shape == (2, 3)
    assert random.normal64((4, 1), 1.0).dtype == np.float64
    for dtype in (torch.float32, torch.float64):
        tensor = torch.zeros(3, 5, dtype=dtype)
        assert random.normal_(tensor, 2.0) is tensor
        assert 0.5 < float(tensor.std()) < 4
    strided = torch.zeros(4, 6).T
    random.normal_(strided, 1.0)
    assert int((strided == 0).sum()) == 0
    assert float(random.normal(5, 0.0).abs().sum()) == 0.0
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="std="):
            random.normal(3, bad)


def test_uniform_and_permutation() -> None:
    values = seeded("uniform").uniform((100, 1000))
    assert values.shape == (100, 1000)
    assert 0 <= values.min() <= values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    orders = [tuple(seeded("order", index).permutation(4)) for index in range(2400)]
    assert len(set(orders)) == 24
    assert stats.chisquare(np.unique(np.array(orders), axis=0, return_counts=True)[1]).pvalue > 0.001


@pytest.mark.parametrize("q", [0.001, 0.14, 0.5, 0.999])
def test_bernoulli_rate(q: float) -> None:
    n = 300_000
    hits = int(seeded("bernoulli", str(q)).bernoulli(n, q).sum())
    assert stats.binomtest(hits, n, q).pvalue > 0.001


def test_bernoulli_limits() -> None:
    random = seeded()
    assert random.bernoulli(1000, 1.0).all()
    assert not random.bernoulli(1000, 0.0).any()
    assert random.bernoulli(0, 0.5).shape == (0,)
    assert not random.bernoulli(100_000, 2.0**-60).any()
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="q="):
            random.bernoulli(3, bad)
    with pytest.raises(ValueError, match="n=-1"):
        random.bernoulli(-1, 0.5)


def test_default_generators_are_private_and_independent() -> None:
    one, other = SecureRandom(), SecureRandom()
    assert one.private
    assert other.private
    a, b = one.normal64(50_000, 1.0), other.normal64(50_000, 1.0)
    assert abs(np.corrcoef(a, b)[0, 1]) < 6 / math.sqrt(50_000)
    assert not np.intersect1d(a, b).size
    assert not np.intersect1d(a, one.normal64(50_000, 1.0)).size


def test_seeded_generators_repeat_and_say_so() -> None:
    assert not seeded().private
    assert np.array_equal(seeded("client", 3).uniform(9), seeded("client", 3).uniform(9))
    streams = [
        SecureRandom.seeded(*arguments).uniform(4).tobytes()
        for arguments in (
            (7,),
            (8,),
            (7, "a"),
            (7, "a", "b"),
            (7, "ab"),
            (7, b"a"),
            (7, 1),
            (7, "1"),
            (71,),
            (7, ""),
            (-7,),
        )
    ]
    assert len(set(streams)) == len(streams)
    for bad in (1.5, None, True, (1,)):
        with pytest.raises(TypeError, match="must be an integer"):
            SecureRandom.seeded(1, bad)  # type: ignore[arg-type]  # refused at run time too
    with pytest.raises(TypeError, match="integer"):
        SecureRandom.seeded("1")  # type: ignore[arg-type]  # ditto


def test_torch_and_numpy_seeds_have_no_say() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.append(SecureRandom().normal64(4, 1.0))
    assert not np.array_equal(draws[0], draws[1])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_generator_cannot_be_duplicated(duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(TypeError, match="would repeat its noise"):
        duplicate(SecureRandom())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking is what is tested; the child only draws
def test_a_forked_child_does_not_repeat_its_parents_noise() -> None:
    random = SecureRandom()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, random.uniform(8).tobytes())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reader, 64), dtype=np.float64)
    os.close(reader)
    os.close(writer)
    assert status == 0
    assert not np.intersect1d(theirs, random.uniform(8)).size


def test_noised_sums_lie_on_a_grid_that_depends_on_the_noise_alone() -> None:
    """Mironov 2012: the reachable outputs must not depend on the input; so they are the same grid for all."""
    for std in (1.0, 0.37, 5e-4, 1234.5):
        spacing = 2.0 ** (math.floor(math.log2(std)) - 20)
        for offset in (0.0, 0.1, 1 / 3, 1e-9, 1e3 * std):
            tensor = torch.full((2000,), offset, dtype=torch.float64)
            seeded("grid").add_normal_(tensor, std)
            cells = tensor / spacing
            assert torch.equal(cells, cells.round())
            expected = offset + seeded("grid").normal64(2000, std)
            assert np.abs(tensor.numpy() - expected).max() <= spacing / 2 * (1 + 1e-9)


def test_noised_sums_of_float32_and_of_no_noise() -> None:
    tensor = torch.full((50_000,), 2.5)
    assert seeded("f32").add_normal_(tensor, 0.5) is tensor
    assert stats.kstest((tensor.double().numpy() - 2.5) / 0.5, "norm").pvalue > 0.01
    untouched = torch.tensor([0.1, 0.2])
    assert torch.equal(seeded().add_normal_(untouched.clone(), 0.0), untouched)


def test_metric_release() -> None:
    lanes = np.zeros((40, 500))
    kept = lanes.copy()
    noised = metric_release(lanes, 0.5, 4.0, seeded("metrics"))
    assert np.array_equal(lanes, kept)
    assert noised.shape == lanes.shape
    assert noised.dtype == np.float64
    assert stats.kstest(noised.ravel() / 2.0, "norm").pvalue > 0.01
    shifted = metric_release(lanes + 10, 0.5, 4.0, seeded("metrics"))
    assert np.abs(shifted - noised - 10).max() < 1e-5


@pytest.mark.parametrize(
    ("lanes", "sensitivity", "noise", "field"),
    [
        (np.zeros(2), 0.0, 1.0, "sensitivity"),
        (np.zeros(2), 1.0, 0.0, "metric_noise"),
        (np.zeros(2), math.inf, 1.0, "sensitivity"),
        (np.array([0.0, math.nan]), 1.0, 1.0, "lanes"),
        (np.zeros(2, dtype=np.float32), 1.0, 1.0, "float64"),
    ],
)
def test_metric_release_refuses(lanes: np.ndarray, sensitivity: float, noise: float, field: str) -> None:
    with pytest.raises(BadPlan, match=field):
        metric_release(lanes, sensitivity, noise, seeded())
