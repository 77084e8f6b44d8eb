"""Models of flat records: vectors, and images read as vectors."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from models.cnn import activation_layer
from models.hyperparameters import Activation, Widths
from models.signature import Signature


def mlp(signature: Signature, *, hidden: Widths = (64,), activation: Activation = "tanh") -> nn.Module:
    """Build ``flatten [linear activation]* linear``: float32 ``(B, *shape) -> (B, outputs)``.

    Args:
        signature: a vector or image signature.
        hidden: width of each hidden layer.
        activation: after each hidden layer.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    widths = (signature.elements, *hidden)
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation_layer(activation)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], signature.outputs))


def linear(signature: Signature) -> nn.Module:
    """Build ``flatten linear``: float32 ``(B, *shape) -> (B, outputs)``.

    The one module behind ``logistic`` (softmax cross-entropy), ``linear-svm`` (multi-class hinge) and
    ``linear`` (regression); they differ in their loss alone.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(signature.elements, signature.outputs))
