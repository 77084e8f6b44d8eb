"""What MLflow's tracking is told of a published run: its settings, its rounds, its variants. Public figures alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from models.bundle import Bundle
from models.strict_json import is_number

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EXPERIMENTS = "confide/"
_MOST_METRICS = 100_000
_BATCH = 1000
_PARAMETERS = 100


def log_run(client: MlflowClient, run_id: str, bundle: Bundle, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log a run's settings once, and its figures by round.

    Args:
        client: MLflow's.
        run_id: the MLflow run to log to.
        bundle: what the run made.
        rows: lines of the run's ``metrics.jsonl``; of each, ``test``, ``validation`` and ``epsilon_rdp`` (the
            largest of the departments) are logged at the step ``round``.
    """
    from mlflow.entities import Metric, Param  # noqa: PLC0415  # slow, and an extra

    parameters = [Param(key, value) for key, value in _parameters(bundle)][:_PARAMETERS]
    client.log_batch(run_id, params=parameters)
    metrics: list[Metric] = [
        Metric(key, value, when, step) for row in rows for key, value, when, step in _figures(row)
    ][:_MOST_METRICS]
    when = _milliseconds(bundle.parts.created)
    metrics += [Metric(key, value, when, 0) for key, value in _measured(bundle)]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _parameters(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The settings of a run that somebody comparing runs looks for."""
    yield "run", bundle.run
    yield "model", bundle.parts.model.name
    yield "loss", bundle.parts.task.loss_name
    yield "default_variant", bundle.parts.default
    for name, value in (("spec_digest", bundle.lineage.get("spec_digest")), ("rounds", bundle.lineage.get("rounds"))):
        yield name, str(value)
    for field in ("mode", "unit", "delta", "noise_multiplier", "max_grad_norm", "sampling_rate"):
        if field in bundle.privacy:
            yield f"privacy.{field}", str(bundle.privacy[field])
    for name, value in sorted(bundle.parts.model.hyperparameters.items()):
        yield f"model.{_key(name)}", str(value)


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, float, int, int]]:
    """The figures of one round: name, value, Unix milliseconds, step."""
    step = row.get("round")
    if type(step) is not int:
        return
    when = _milliseconds(row.get("time"))
    for part in ("test", "validation"):
        values = row.get(part)
        for name, value in sorted(values.items()) if isinstance(values, Mapping) else ():
            if is_number(value):
                yield f"{part}.{_key(name)}", float(value), when, step
    spent = row.get("epsilon_rdp")
    largest = [value for value in spent.values() if is_number(value)] if isinstance(spent, Mapping) else []
    if largest:
        yield "epsilon_rdp.largest", float(max(largest)), when, step


def _measured(bundle: Bundle) -> Iterator[tuple[str, float]]:
    """What was measured of every variant."""
    for variant in bundle.variants:
        for field in ("score", "score_change", "agreement", "ratio", "bytes", "latency_ms_b1", "latency_ms_b32"):
            value = getattr(variant, field)
            if value is not None:
                yield f"variant.{_key(variant.name)}.{field}", float(value)


def _key(name: object) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^A-Za-z0-9_. -]", "-", str(name))[:100]


def _milliseconds(time: object) -> int:
    """Unix milliseconds of an ISO time; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(str(time)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
