"""The run file: every key typed, validated and explained.

A run file is TOML with the tables ``model``, ``data``, ``training``, ``privacy``,
``secagg``, ``strategy``, ``evaluation``, ``publish`` and ``performance``. Everything a department
needs to know travels as the *public part* (:meth:`RunSettings.public`): no path, no list of
departments, no performance setting. Privacy and performance are separate tables so that
nobody can speed a run up into a weaker guarantee.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.errors import ModelError
from models.inputs.schema import DataSettings
from models.inputs.sections import Section
from models.zoo import validate_hyperparameters
from privacy.accounting import MIN_NOISE_MULTIPLIER

STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold")

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, lt=1e9)]
# Below calibration's own range epsilon runs into the thousands and accountants overflow.
Noise = Annotated[float, Field(ge=MIN_NOISE_MULTIPLIER, le=1e6)]


class ModelSettings(BaseModel):
    """``[model]``: a name from the zoo; every other key is one of its hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        """Let the zoo check the name and each hyper-parameter."""
        try:
            validate_hyperparameters(self.name, self.hyperparameters)
        except ModelError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters given in the file, by name."""
        return dict(self.model_extra or {})


class StrictSection(Section):
    """A section that takes no text for a number and no truth value for a count."""

    model_config = ConfigDict(strict=True)


class TrainingSettings(StrictSection):
    """``[training]``: what a department does in a round.

    Batches are Poisson samples: each of the department's records is in a step's batch with
    probability ``sampling_rate``, independently.
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    local_steps: Annotated[int, Field(ge=1, le=100_000)] = 8
    sampling_rate: Share = 0.25
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss: Literal["cross-entropy", "hinge", "mse"] | None = None


class PrivacySettings(StrictSection):
    """``[privacy]``: local record-level differential privacy, or openly none.

    ``epsilon`` is met by the largest figure that any accountant prints. ``noise_multiplier``
    may be given instead, and then epsilon follows from it. ``metrics``: "dp" releases noised,
    accounted validation metrics, "off" none, "plain" is for simulations alone.
    """

    mode: Literal["local", "off"] = "local"
    epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    delta: Annotated[float, Field(ge=1e-10, lt=1)] = 1e-5
    noise_multiplier: Noise | None = None
    metric_noise: Noise | None = None
    max_grad_norm: Positive = 1.0
    metrics: Literal["dp", "off", "plain"] = "dp"
    unit: Literal["record"] = "record"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse combinations that do not say what they promise."""
        if self.mode == "off":
            for field in ("epsilon", "noise_multiplier", "metric_noise"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"{field} = {getattr(self, field)} promises privacy while mode = "
                        '"off" gives none: remove it or set mode = "local"'
                    )
        elif self.epsilon is None and self.noise_multiplier is None:
            raise ValueError('give epsilon (or noise_multiplier), or say mode = "off" openly')
        if self.metric_noise is not None and self.metrics != "dp":
            raise ValueError(f'metric_noise needs metrics = "dp", not "{self.metrics}"')
        return self

    @property
    def on(self) -> bool:
        """Whether training is differentially private."""
        return self.mode != "off"


class SecaggSettings(StrictSection):
    """``[secagg]``: how departments' vectors are added up.

    "sealed" (one large and one small exchange a round) and "strict" (one small exchange more, more
    departments may drop out) show the coordinator sums alone; "clear" shows it every vector. Where
    nothing is said, "sealed"; only a simulation of fewer than three departments, and a stock SuperLink that knows
    no federation, fall back to "clear", and say so.
    In a federation the roster, signed by its governance, has the last word: it may demand "strict".

    ``update_range`` bounds every element of an update (what lies outside is clipped) and ``max_size``
    every declared size: the tighter they are, the finer the grid that sums are rounded to.
    """

    mode: Literal["sealed", "strict", "clear"] | None = None
    update_range: Annotated[float, Field(ge=1e-6, le=1e6)] = 8.0
    max_size: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000

    @property
    def clear(self) -> bool:
        """Whether every vector is shown to the coordinator; where nothing was said, it is not."""
        return self.mode == "clear"


class StrategySettings(StrictSection):
    """``[strategy]``: how departments' updates become the next global model.

    ``quorum`` is the share of the asked departments that must answer before ``deadline``
    seconds have passed; otherwise the round is abandoned and the run goes on.
    """

    name: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold"] = "fedavg"
    weights: Literal["declared", "uniform"] = "declared"
    fraction: Share = 1.0
    quorum: Share = 0.8
    deadline: Annotated[float, Field(gt=0, le=7 * 86_400)] = 600.0
    min_departments: Annotated[int, Field(ge=1, le=100_000)] = 2
    proximal: Annotated[float, Field(ge=0, le=1e4)] = 0.1
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3


class EvaluationSettings(StrictSection):
    """``[evaluation]``: measuring the received model rides with training, free of a message leg."""

    every: Annotated[int, Field(ge=1, le=10_000)] = 1
    baselines: bool = True


class PublishSettings(StrictSection):
    """``[publish]``: what the resulting model is called and said to be, and how ``confide publish`` goes about it.

    ``tolerance`` is how much accuracy a compressed variant may lose, ``min_accuracy`` what the model must reach;
    ``promote`` moves the alias ``champion`` to the new version if it is no worse than the present one.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    description: Annotated[str, Field(max_length=2000)] = ""
    to: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    variants: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(strict=False, max_length=32)] = ()
    tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.005
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    promote: bool = False


class PerformanceSettings(StrictSection):
    """``[performance]``: nothing in here can change a result beyond rounding."""

    gradients: Literal["auto", "hooks", "ew", "ghost", "bookkeeping", "linear", "vmap"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class RunSettings(StrictSection):
    """A whole run file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings
    secagg: SecaggSettings = SecaggSettings()
    strategy: StrategySettings = StrategySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    publish: PublishSettings = PublishSettings()
    performance: PerformanceSettings = PerformanceSettings()

    @field_validator("privacy", mode="before")
    @classmethod
    def _privacy_word(cls, value: Any) -> Any:
        """Accept ``privacy = "off"`` for ``[privacy] mode = "off"``."""
        return {"mode": value} if isinstance(value, str) else value

    @field_validator("secagg", mode="before")
    @classmethod
    def _secagg_word(cls, value: Any) -> Any:
        """Accept ``secagg = "off"`` for ``[secagg] mode = "clear"``, and any other mode as one word."""
        return {"mode": "clear" if value == "off" else value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse combinations across tables."""
        if self.strategy.name == "scaffold" and self.training.momentum > 0:
            raise ValueError(
                f"training.momentum = {self.training.momentum} and strategy.name = "
                '"scaffold": its control variates assume plain SGD; set momentum = 0'
            )
        if self.privacy.on and self.training.loss == "mse" and self.data.target_bounds is None:
            raise ValueError("data.target_bounds: private regression needs public bounds, as [low, high]")
        return self

    def public(self) -> dict[str, Any]:
        """The part every department receives: JSON-ready, without paths or departments."""
        document = self.model_dump(mode="json", exclude={"data", "performance", "publish", "seed"})
        return document | {"data": self.data.public_part()}
