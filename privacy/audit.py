"""The empirical audit: the product's own training, tried on canaries, method by method.

It can refute that training is as private as its plan says; it can never prove it. ``docs/audit.md`` explains the
tests, the verdicts and what neither can show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
import torch

from privacy.accounting import epsilon
from privacy.canaries import KINDS, make, observe
from privacy.conformance import ALPHA, Check, Observed, Verdict, conformance, product, worst
from privacy.errors import PrivacyError
from privacy.gradients.methods import METHODS, supported
from privacy.noise import SecureRandom
from privacy.onerun import CONFIDENCE, OneRun, expected_bound, judge, likelihood_ratios
from privacy.plan import PrivacyPlan

Progress = Callable[[int, int, str], None]
Randomness = Callable[[str], SecureRandom]

# Neither size is that of the data, neither the clipping norm nor the noise is 1: what takes one for another shows.
# So little noise that each record's part in each step can be read off it.
READABLE = PrivacyPlan(
    sampling_rate=0.1,
    noise_multiplier=0.05,
    max_grad_norm=0.5,
    steps_per_round=20,
    rounds=3,
    declared_size=700,
    delta=1e-5,
)
# Noise as in earnest; an epsilon that sixteen steps can both reach and, if something is wrong, exceed.
PRIVATE = PrivacyPlan(
    sampling_rate=0.25,
    noise_multiplier=2.0,
    max_grad_norm=0.5,
    steps_per_round=8,
    rounds=2,
    declared_size=700,
    delta=1e-5,
)
CANARIES = {"linear": 160, "images": 100, "tokens": 100}
SHARE = 0.9
ONE_RUN_CANARIES = 1000
EACH_SIDE = 100

NOT_SHOWN = (
    "that training is private: a test can refute a mechanism, not prove one",
    "faults too rare or too small for the power stated with each test",
    "that a department's machine runs this code: the audit tries the code installed where it is run",
    "layers other than those listed with each case",
    "that the generator cannot be predicted: statistics do not tell a good generator from a secret one",
    "what leaves a machine besides the model: metrics, timing and errors are not looked at",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Conformance of one method on one kind of model.

    Attributes:
        model: a key of :data:`privacy.canaries.KINDS`.
        layers: the trained layers.
        canaries: how many of the records were there.
        steps: how many steps were seen.
        verdict: the worst of the checks; FAIL where training was refused.
        problem: why nothing was seen, or None.
        checks: the tests; none where nothing was seen.
        seconds: spent.
    """

    model: str
    layers: str
    canaries: int
    steps: int
    verdict: Verdict
    problem: str | None
    checks: tuple[Check, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MethodAudit:
    """Everything about one method of per-record gradients; ``problem`` says why there is no ``one_run``, if so."""

    method: str
    verdict: Verdict
    cases: tuple[Case, ...]
    one_run: OneRun | None
    problem: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What an audit found.

    Attributes:
        verdict: FAIL if anything failed, else INCONCLUSIVE if anything was, else CONSISTENT.
        alpha: the chance that correct code fails a conformance test anywhere in this audit.
        threshold: of each test's p-value: ``alpha`` over the number of tests.
        confidence: of the lower bounds on epsilon.
        seeded: whether the randomness was reproducible, which only the audit's own tests ask for.
        methods: one entry per method.
        plans: the two plans trained with, by purpose.
        versions: of the libraries.
        not_shown: what no verdict here can mean.
        seconds: spent.
    """

    verdict: Verdict
    alpha: float
    threshold: float
    confidence: float
    seeded: bool
    methods: tuple[MethodAudit, ...]
    plans: dict[str, PrivacyPlan]
    versions: dict[str, str]
    not_shown: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return JSON-ready values; every number is finite."""
        return asdict(self)


def run_audit(
    *,
    method: str | None = None,
    seed: int | None = None,
    random: Randomness | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Audit this installation's training step.

    Args:
        method: a key of :data:`privacy.gradients.methods.METHODS`; all of them by default.
        seed: makes the audit reproducible; for its own tests.
        random: gives the generator for a purpose (``"train/1"``, ...), as a department's machine does each round; by
            default a fresh :class:`SecureRandom`.
        progress: called with (cases done, cases in all, what is next).

    Raises:
        UnsupportedModule: there is no such method.
    """
    began = time.perf_counter()
    # Made for nothing but to ask what each method can do.
    models = {kind: of.build(2) for kind, of in KINDS.items()}
    names = list(METHODS) if method is None else [method]
    work = {name: [kind for kind, model in models.items() if supported(model, name) is None] for name in names}
    total = sum(len(kinds) for kinds in work.values())
    threshold = ALPHA / (4 * total)
    report = progress or (lambda *_: None)
    done, audits = 0, []
    with _one_thread():
        for name, kinds in work.items():
            since, cases = time.perf_counter(), []
            for kind in kinds:
                report(done, total, f"{name}: {kind}")
                cases.append(_case(name, kind, threshold, _Source(seed, random, name, kind)))
                done += 1
            bound, problem = _one_run(name, _Source(seed, random, name, "one run"))
            verdicts = [case.verdict for case in cases] + [bound.verdict if bound else "FAIL"]
            audits.append(
                MethodAudit(
                    method=name,
                    verdict=worst(verdicts),
                    cases=tuple(cases),
                    one_run=bound,
                    problem=problem,
                    seconds=time.perf_counter() - since,
                )
            )
    report(done, total, "done")
    return AuditResult(
        verdict=worst([audit.verdict for audit in audits]),
        alpha=ALPHA,
        threshold=threshold,
        confidence=CONFIDENCE,
        seeded=seed is not None,
        methods=tuple(audits),
        plans={"conformance": READABLE, "one run": PRIVATE},
        versions={name: version(name) for name in ("torch", "opacus", "dp-accounting")},
        not_shown=NOT_SHOWN,
        seconds=time.perf_counter() - began,
    )


class _Source:
    """Where one case's randomness comes from: the code under test on one side, the auditor's coins on the other."""

    def __init__(self, seed: int | None, random: Randomness | None, *context: str) -> None:
        self._seed, self._given, self._context = seed, random, context
        # Not SecureRandom: the coins must not share a fault with what they test.
        self.coins = np.random.default_rng(None if seed is None else [seed, *"/".join(context).encode()])

    def __call__(self, purpose: str) -> SecureRandom:
        if self._given is not None:
            return self._given(purpose)
        return SecureRandom() if self._seed is None else SecureRandom.seeded(self._seed, *self._context, purpose)


def _case(method: str, kind: str, threshold: float, source: _Source) -> Case:
    """Conformance on one kind of model."""
    began = time.perf_counter()
    canaries = make(kind, CANARIES[kind], share=SHARE, max_grad_norm=READABLE.max_grad_norm, coins=source.coins)
    directions = canaries.directions(canaries.present.nonzero()[0])
    checks: tuple[Check, ...] = ()
    problem = None
    try:
        sums = observe(canaries, READABLE, method=method, random=source)
    except (PrivacyError, ValueError) as refusal:
        problem = str(refusal)
    else:
        seen = Observed(
            sums=sums,
            directions=directions,
            sampling_rate=READABLE.sampling_rate,
            noise_multiplier=READABLE.noise_multiplier,
        )
        checks = conformance(seen, threshold=threshold)
    return Case(
        model=kind,
        layers=KINDS[kind].layers,
        canaries=int(canaries.present.sum()),
        steps=READABLE.steps if problem is None else 0,
        verdict=worst([check.verdict for check in checks]) if checks else "FAIL",
        problem=problem,
        checks=checks,
        seconds=time.perf_counter() - began,
    )


def _one_run(method: str, source: _Source) -> tuple[OneRun | None, str | None]:
    """The lower bound on epsilon, on the linear model, which every method can do; or why there is none."""
    canaries = make("linear", ONE_RUN_CANARIES, share=0.5, max_grad_norm=PRIVATE.max_grad_norm, coins=source.coins)
    try:
        sums = observe(canaries, PRIVATE, method=method, random=source)
    except (PrivacyError, ValueError) as refusal:
        return None, str(refusal)
    scores = likelihood_ratios(
        product(sums, canaries.directions(np.arange(ONE_RUN_CANARIES)).T),
        sampling_rate=PRIVATE.sampling_rate,
        noise_multiplier=PRIVATE.noise_multiplier,
    )
    return judge(
        scores,
        canaries.present,
        each_side=EACH_SIDE,
        claimed=epsilon(PRIVATE).pld,
        delta=PRIVATE.delta,
        expected=_expected(),
    ), None


@cache
def _expected() -> float:
    """What an ideal attacker would get."""
    return expected_bound(
        canaries=ONE_RUN_CANARIES,
        each_side=EACH_SIDE,
        steps=PRIVATE.steps,
        sampling_rate=PRIVATE.sampling_rate,
        noise_multiplier=PRIVATE.noise_multiplier,
        delta=PRIVATE.delta,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: the models are far too small to gain from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
