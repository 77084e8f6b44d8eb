"""A run that may cost more than this department's caps is refused before a record is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from federation_cases import clear_vector, department, settings_of, site

from client.errors import RefusalError
from client.train import Site, check_caps
from models.vector import to_vector
from privacy.accounting import epsilon, quick_epsilon
from strategies.agreement import model_of, plan_for, write_spec
from strategies.status import Status
from strategies.wire import Instruction

PRIVATE = settings_of(privacy={"mode": "local", "noise_multiplier": 2.0, "metric_noise": 8.0, "metrics": "dp"})


def capped(**changes: object) -> Site:
    return replace(site(department("north")), simulated=False, allow_clear=True, **changes)  # type: ignore[arg-type]  # caps by name


def instruction() -> Instruction:
    return Instruction(
        run="run-1",
        round=1,
        spec=write_spec(PRIVATE, run="run-1"),
        train=True,
        evaluate=True,
        model=to_vector(model_of(PRIVATE, seed=3)),
    )


def test_a_run_within_the_caps_is_answered() -> None:
    plan = plan_for(PRIVATE, declared_size=100)
    assert plan is not None
    assert clear_vector(instruction(), capped(max_epsilon=quick_epsilon(plan), max_delta=plan.delta)).size


@pytest.mark.parametrize("caps", [{"max_epsilon": 0.5}, {"max_delta": 1e-9}])
def test_a_run_beyond_a_cap_is_refused_and_not_recorded(caps: dict[str, float]) -> None:
    own = capped(**caps)
    with pytest.raises(RefusalError, match=next(iter(caps))) as caught:
        clear_vector(instruction(), own)
    assert caught.value.status is Status.REFUSED_BY_POLICY


def test_a_cap_between_the_accountants_is_decided_by_the_tighter_one() -> None:
    """Renyi's figure is the coarser: a plan that only it puts above the cap is admitted."""
    plan = plan_for(PRIVATE, declared_size=100)
    assert plan is not None
    cap = (quick_epsilon(plan) + epsilon(plan).pld) / 2
    assert epsilon(plan).pld < cap < quick_epsilon(plan)
    check_caps(plan, capped(max_epsilon=cap))


def test_quick_epsilon_is_the_renyi_figure() -> None:
    plan = plan_for(PRIVATE, declared_size=100)
    assert plan is not None
    assert quick_epsilon(plan) == pytest.approx(epsilon(plan).opacus_rdp, rel=1e-12)
    assert quick_epsilon(plan, rounds=0, metric_releases=0) == 0
    assert quick_epsilon(plan, rounds=1, metric_releases=2) <= quick_epsilon(plan)
