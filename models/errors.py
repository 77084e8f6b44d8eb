"""What can go wrong in this room.

    ModelError (ValueError)
    ├── UnknownModel        no model of that name; the nearest is named
    ├── BadHyperparameter   a value a model cannot be built with
    ├── BadSignature        a signature that describes no possible problem
    ├── BadTask             a way of scoring that does not suit its targets
    ├── SignatureMismatch   two things that should fit together do not
    ├── StoreError          a file that cannot be written, read or believed
    ├── CompressionError    a model that cannot be compressed or exported as asked
    │   └── PrivateDataRefused  records offered for compression that are not public
    ├── BundleError         a published bundle that is not what was signed, or cannot be made
    ├── RequestError        records to predict or explain that do not fit the published schema
    └── ExplainError        an explanation that this model or these records do not allow

Every message names the field, the value and the fix. A message never holds a record, a label or a weight.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """Root of everything this room raises on purpose."""


class UnknownModel(ModelError):
    """The zoo has no model of that name."""


class BadHyperparameter(ModelError):
    """A hyper-parameter is unknown, of the wrong type, out of range or in conflict with another."""


class BadSignature(ModelError):
    """A signature's own fields contradict each other or pass a size bound."""


class BadTask(ModelError):
    """A loss, a bound or a number of bins does not suit the targets, or a stored task is malformed."""


class SignatureMismatch(ModelError):
    """A model, a vector, a batch or a task does not fit the signature or layout it is used with."""


class StoreError(ModelError):
    """A file or stored model could not be written, read or verified."""


class CompressionError(ModelError):
    """A model cannot be compressed or exported as asked."""


class PrivateDataRefused(CompressionError):
    """Compression may see public or synthetic records alone, and these are not."""


class BundleError(ModelError):
    """A published bundle is not what was signed, is incomplete, or cannot be made."""


class RequestError(ModelError):
    """Records to predict or explain do not fit the published schema; the field is named."""


class ExplainError(ModelError):
    """An explanation cannot be had of this model or these records."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'? "`` (or nothing) and the list of known words, for an error message."""
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {match[0]!r}? " if match else ""
    return f"{hint}known: {', '.join(names) if names else '(none)'}"
