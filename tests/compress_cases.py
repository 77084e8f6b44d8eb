"""One small model of each family, exported once for all tests of a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from models import zoo
from models.export import to_onnx
from models.public import PublicRecords
from models.signature import Signature
from models.task import Task, task_for

IMAGE = Signature(kind="image", shape=(1, 8, 8), target="classes", outputs=3)
SEQUENCE = Signature(kind="sequence", shape=(6, 4), target="classes", outputs=3)
TOKENS = Signature(kind="tokens", shape=(7,), vocabulary=120, target="classes", outputs=3)


@dataclass(frozen=True)
class Case:
    name: str
    signature: Signature
    hyperparameters: Mapping[str, object]

    @cached_property
    def model(self) -> nn.Module:
        """With biases and normalisation as unlike each other as after training."""
        model = zoo.build(self.name, self.signature, self.hyperparameters, seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    @cached_property
    def encoded(self) -> bytes:
        return to_onnx(self.model, self.signature)

    @property
    def task(self) -> Task:
        return task_for(self.name, self.signature)

    def records(self, count: int = 200, seed: int = 5) -> PublicRecords:
        return PublicRecords.synthetic(self.signature, records=count, seed=seed)


CASES = {
    "cnn": Case("cnn", IMAGE, {"channels": (8, 12)}),
    "mlp": Case("mlp", IMAGE, {"hidden": (24, 16)}),
    "lstm": Case("lstm", TOKENS, {"hidden": 24, "embedding": 16}),
    "gru": Case("gru", SEQUENCE, {"hidden": 24}),
    "transformer": Case("transformer", TOKENS, {"width": 16, "heads": 2, "layers": 1, "feedforward": 32}),
}
