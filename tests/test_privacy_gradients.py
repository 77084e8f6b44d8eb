"""Every gradient method against a one-record-at-a-time loop, Opacus' hooks, and the hazards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_cases import MODELS, Transformer, batch, gap, losses, make, one_by_one, takes_tokens
from torch import Tensor, nn

from privacy.errors import UnsupportedModule
from privacy.gradients.functional import Vmap
from privacy.gradients.methods import METHODS, build, supported
from privacy.gradients.pieces import Outer, Piece, Rows, Series, Whole

# What no list of layer types shows: Opacus' hooks take the first axis for the batch, its ghost norms a
# layer's
# every use for the only one. These are refused when they run; see test_privacy_modules.
RUNTIME_REFUSALS = {("torch-attention-time-first", m) for m in ("hooks", "ew", "ghost", "bookkeeping")} | {
    ("twice", "ghost")
}
PAIRS = [
    (name, method)
    for name in MODELS
    for method in METHODS
    if supported(make(name), method) is None and (name, method) not in RUNTIME_REFUSALS
]


def test_every_method_is_tested_on_something_and_every_model_by_several_methods() -> None:
    assert {method for _, method in PAIRS} == set(METHODS)
    for name in MODELS:
        assert sum(of == name for of, _ in PAIRS) >= (1 if name == "torch-attention-time-first" else 2), name
    assert {
        ("torch-attention", "hooks"),
        ("torch-attention", "bookkeeping"),
        ("torch-attention", "vmap"),
    } <= set(PAIRS)
    assert ("lstm-deep", "bookkeeping") in PAIRS
    assert ("gru-deep", "bookkeeping") in PAIRS


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_clipped_sum_is_that_of_single_records(name: str, method: str) -> None:
    model = make(name)
    inputs, targets = batch(name, 9)
    norms = [
        float(torch.stack([g.norm() for g in one_by_one(model, inputs[i : i + 1], targets[i : i + 1], 1e9)]).norm())
        for i in range(9)
    ]
    bound = sorted(norms)[4]  # half of the records are clipped
    expected = one_by_one(model, inputs, targets, bound)
    found = build(model, losses, method)(inputs, targets, bound)
    assert gap(found, expected) <= 1e-5 * max(1.0, bound)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["cnn", "lstm", "gru", "transformer", "mlp", "linear"]),
    size=st.integers(0, 7),
    seed=st.integers(0, 1000),
    bound=st.floats(0.01, 10.0),
)
def test_methods_agree_with_opacus_hooks(name: str, size: int, seed: int, bound: float) -> None:
    model = make(name, seed)
    inputs, targets = batch(name, size, seed)
    expected = build(model, losses, "hooks")(inputs, targets, bound)
    assert gap(one_by_one(model, inputs, targets, bound), expected) <= 1e-5 * max(1.0, bound)
    for method in METHODS:
        if (name, method) in PAIRS:
            assert gap(build(model, losses, method)(inputs, targets, bound), expected) <= 1e-5 * max(1.0, bound), method


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_empty_batch_gives_zeros(name: str, method: str) -> None:
    model = make(name)
    inputs, targets = batch(name, 0)
    found = build(model, losses, method)(inputs, targets, 1.0)
    assert gap(found, [torch.zeros_like(p) for p in model.parameters()]) == 0.0


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_chunks_add_up_and_calls_do_not_accumulate(name: str, method: str) -> None:
    model = make(name)
    inputs, targets = batch(name, 7)
    sums = build(model, losses, method)
    whole = sums(inputs, targets, 0.5)
    sums.chunk = 3
    assert gap(sums(inputs, targets, 0.5), whole) <= 1e-6
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)  # the next call must see the model's present parameters
    assert gap(sums(inputs, targets, 0.5), one_by_one(model, inputs, targets, 0.5)) <= 1e-5


def test_a_float_record_of_any_non_finite_kind_changes_nothing() -> None:
    for name, method in PAIRS:
        if takes_tokens(name):
            continue
        model = make(name)
        inputs, targets = batch(name, 6)
        sums = build(model, losses, method)
        without = sums(inputs[[0, 1, 3, 5]], targets[[0, 1, 3, 5]], 0.5)
        for bad in (float("inf"), float("nan"), 3e38):
            spoiled = inputs.clone()
            spoiled[2] = bad
            spoiled[4, ..., 0] = -bad
            assert gap(sums(spoiled, targets, 0.5), without) <= 1e-6, (name, method, bad)
        spoiled = torch.full_like(inputs, float("nan"))
        assert gap(sums(spoiled, targets, 0.5), [torch.zeros_like(p) for p in model.parameters()]) == 0.0


@pytest.mark.parametrize(("name", "method"), [pair for pair in PAIRS if takes_tokens(pair[0])])
def test_a_token_that_overflows_the_model_changes_nothing(name: str, method: str) -> None:
    """A server can send a model that overflows on one record only, to learn whether that record is there."""
    model = make(name)
    inputs, targets = batch(name, 6)
    inputs[inputs == 10] = 9
    without = build(model, losses, method)(inputs[[0, 1, 2, 4, 5]], targets[[0, 1, 2, 4, 5]], 0.5)
    inputs[3, 2] = 10
    with torch.no_grad():
        model.get_parameter("embedding.weight")[10] = float("inf")
    assert gap(build(model, losses, method)(inputs, targets, 0.5), without) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_loss_with_a_finite_gradient_contributes_zero(method: str) -> None:
    model = make("linear")
    inputs, targets = batch("linear", 5)

    def spoiled(outputs: Tensor, wanted: Tensor) -> Tensor:
        return losses(outputs, wanted) + torch.where(wanted == 2, torch.inf, 0.0)

    kept = targets != 2
    assert 0 < int(kept.sum()) < 5
    found = build(model, spoiled, method)(inputs, targets, 0.5)
    assert gap(found, one_by_one(model, inputs[kept], targets[kept], 0.5)) <= 1e-6


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_frozen_parameters_count_neither_in_norm_nor_in_sum(name: str, method: str) -> None:
    model = make(name)
    frozen = [p for p in model.parameters() if p.dim() > 1][: -1 if name != "linear" else None]
    if name == "linear":
        frozen = [model.get_parameter("1.bias")]
    for p in frozen:
        p.requires_grad_(False)
    inputs, targets = batch(name, 5)
    expected = one_by_one(model, inputs, targets, 0.05)
    if supported(model, method) is not None:
        pytest.skip("freezing a whole layer type away leaves this method nothing to do")
    found = build(model, losses, method)(inputs, targets, 0.05)
    assert gap(found, expected) <= 1e-6
    for p, total in zip(model.parameters(), found, strict=True):
        assert p.requires_grad or not bool(total.any())


@pytest.mark.parametrize("method", ["hooks", "ghost", "bookkeeping", "vmap"])
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = make("lstm")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    build(model, losses, method)(*batch("lstm", 4), 1.0)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_losses_must_be_one_per_record() -> None:
    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return losses(outputs, targets).mean()

    for method in METHODS:
        with pytest.raises(UnsupportedModule, match="one loss per record"):
            build(make("linear"), mean, method)(*batch("linear", 4), 1.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_pieces_agree_with_gradients_written_out(records: int, steps: int, d: int, p: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(records, steps, d, generator=generator)
    g = torch.randn(records, steps, p, generator=generator)
    factors = torch.rand(records, generator=generator)
    written = Whole(torch.einsum("btp,btd->bpd", g, a))
    pieces: list[Piece] = [Series(a, g), *([Outer(a[:, 0], g[:, 0])] if steps == 1 else [])]
    for piece in pieces:
        assert torch.allclose(piece.squares(), written.squares(), rtol=1e-4, atol=1e-4)
        assert torch.allclose(piece.weighted_sum(factors).flatten(), written.weighted_sum(factors), atol=1e-5)
    rows = torch.randint(0, 3, (records, steps), generator=generator)
    table = torch.zeros(records, 3, p).index_put_(
        (torch.arange(records)[:, None].expand_as(rows), rows), g, accumulate=True
    )
    looked_up = Rows(rows, g, 3)
    assert torch.allclose(looked_up.squares(), Whole(table).squares(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(looked_up.weighted_sum(factors).flatten(), Whole(table).weighted_sum(factors), atol=1e-5)


def test_gram_norms_are_upper_bounds_where_they_cancel() -> None:
    """Two steps that all but cancel: a norm of 5 hides below products of 1e8, and must not be missed."""
    a = torch.full((1, 2, 1), 1e4)
    g = torch.tensor([[[1e4], [-1e4 + 5e-4 * 2]]])
    true = float((a.double() * g.double()).sum().abs())
    assert true > 5
    assert float(Series(a, g).squares().sqrt()) >= true


def test_compiled_shapes_stay_one_for_short_batches() -> None:
    model = make("mlp")
    method = Vmap(model, losses)
    method._compiled = True  # the padding is what is under test; compiling itself takes 13 s
    for size in (1, 5, 32, 40):
        inputs, targets = batch("mlp", size)
        assert gap(method(inputs, targets, 0.5), one_by_one(model, inputs, targets, 0.5)) <= 1e-5


def test_refusals_name_layer_and_reason() -> None:
    tied = Transformer()
    tied.after.weight = tied.before.weight
    assert "before.weight" in str(supported(tied, "bookkeeping"))
    assert supported(tied, "vmap") is None
    assert "groups=2" in str(supported(nn.Conv2d(2, 2, 3, groups=2), "bookkeeping"))
    assert "padding" in str(supported(nn.Conv2d(2, 2, 3, padding="same"), "bookkeeping"))
    assert "proj_size" in str(supported(nn.LSTM(3, 4, proj_size=2), "bookkeeping"))
    assert "dropout" in str(supported(nn.GRU(3, 4, num_layers=2, dropout=0.5), "hooks"))
    assert "exactly one" in str(supported(make("mlp"), "linear"))
    with pytest.raises(UnsupportedModule, match="must be one of"):
        supported(make("mlp"), "magic")
    with pytest.raises(UnsupportedModule, match="model trains 2 layers"):
        build(make("mlp"), losses, "linear")


def test_tied_parameters_are_exact_under_vmap() -> None:
    model = make("transformer")
    assert isinstance(model, Transformer)
    model.after.weight = model.before.weight
    inputs, targets = batch("transformer", 5)
    found = build(model, losses, "vmap")(inputs, targets, 0.5)
    assert gap(found, one_by_one(model, inputs, targets, 0.5)) <= 1e-5
