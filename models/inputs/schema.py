"""The ``[data]`` table of a run: what every party may know about the data.

Nothing here is ever fitted on private rows. Means, vocabularies, category lists and the set of classes would
all carry information about single records, so bounds, vocabularies, categories and classes are written
down in public, and columns that are not listed are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.inputs.errors import SettingsIncomplete
from models.inputs.sections import (
    Bounds,
    ColumnSettings,
    ImageSettings,
    PartitionSettings,
    Section,
    SequenceSettings,
    TestSettings,
    Text,
    Texts,
    TextSettings,
    canonical,
)
from models.signature import Signature

_PRIVATE_TO_THE_BENCH = {
    "path",
    "labels_path",
    "departments",
    "department_column",
    "partition",
    "declared_sizes",
}


class DataSettings(Section):
    """The public specification of a run's data.

    Attributes:
        kind: what a record is.
        name: the data set's name; in a real run every client maps it to a path of its own.
        path, labels_path: simulation only: one source for all departments (see ``models.inputs.readers``).
        departments: simulation only: department name -> path.
        department_column: simulation only: the column of ``path`` that names a row's department.
        partition: simulation only: how ``path`` is dealt out.
        declared_sizes: simulation only: department name -> public size.
        label: the label's column (for ``.npz`` the array's name); images and IDX files have none.
        classes: the public list of classes; their order is the order of a model's outputs.
        target_bounds: makes this a regression; targets are clipped to these.
        missing: texts that mean "missing", compared after stripping; empty cells and nulls are ``""``.
        columns: the columns of a table that are used. Features are laid out by column *name*, whatever the
            order in the file or here: a number gives one feature, a category one per listed value plus one
            for "unlisted"; with ``missing`` each column adds a "missing" feature. A missing number stands at
            the middle of its bounds, a missing category is listed nowhere.
        unknown: an unlisted category sets the column's "unlisted" feature (``"other"``) or is refused
            (``"error"``, which also leaves that feature out).
        person: the column that identifies a person; one row per person is kept.
        validation: share of records, or persons, held out in a simulation; in a real run every department
            has fixed its own when it registered the data set.
        max_rows: a source with more records is refused.
        test: the server's public test set.
    """

    kind: Literal["tabular", "text", "image", "sequence"]
    name: str | None = Field(default=None, min_length=1, max_length=200)
    path: str | None = None
    labels_path: str | None = None
    departments: dict[str, str] | None = Field(default=None, min_length=1)
    department_column: str | None = None
    partition: PartitionSettings | None = None
    declared_sizes: dict[str, int] = Field(default={})
    label: str | None = None
    classes: Texts | None = Field(default=None, min_length=2)
    target_bounds: Bounds | None = None
    missing: tuple[Text, ...] = ()
    columns: dict[str, ColumnSettings] = Field(default={})
    unknown: Literal["error", "other"] = "other"
    text: TextSettings | None = None
    image: ImageSettings | None = None
    sequence: SequenceSettings | None = None
    person: str | None = None
    validation: float = Field(default=0.1, gt=0.0, le=0.5)
    max_rows: int = Field(default=10_000_000, ge=1)
    test: TestSettings | None = None

    @field_validator("missing")
    @classmethod
    def _canonical_missing(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Write missing values the way cells are compared, each once."""
        return tuple(dict.fromkeys(canonical(value) for value in values))

    @field_validator("columns")
    @classmethod
    def _by_name(cls, columns: dict[str, ColumnSettings]) -> dict[str, ColumnSettings]:
        """Fix the order of the columns, so that it survives any encoding of this table."""
        return {name: columns[name] for name in sorted(columns)}

    @field_validator("declared_sizes")
    @classmethod
    def _positive_sizes(cls, sizes: dict[str, int]) -> dict[str, int]:
        """A declared size divides a gradient sum."""
        for department, size in sizes.items():
            if size < 1:
                raise ValueError(f"{department} = {size}: a declared size is 1 or more")
        return sizes

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        """Refuse two answers to the question where records come from."""
        if self.path is not None and self.departments is not None:
            raise ValueError("path and departments: give one source for all, or one per department")
        if self.test is not None and self.test.share is not None and self.path is None:
            raise ValueError("test.share needs path, the source it is a part of; else give test.path")
        for field in ("labels_path", "department_column", "partition"):
            if getattr(self, field) is not None and self.path is None:
                raise ValueError(f"{field} needs path, the source it belongs to")
        if self.department_column is not None and self.partition is not None:
            raise ValueError("department_column and partition: both deal out the rows; give one")
        return self

    @model_validator(mode="after")
    def _sections_fit_kind(self) -> Self:
        """Refuse a section of another kind, and a kind without its section."""
        bundled = self.path is not None and self.path.startswith("sklearn:")
        given = {
            "columns": bool(self.columns),
            "text": self.text is not None,
            "image": self.image is not None,
            "sequence": self.sequence is not None,
        }
        needed = "columns" if self.kind == "tabular" else self.kind
        for section, present in given.items():
            if present and section != needed:
                raise ValueError(f"[data.{section}] does not belong to kind = {self.kind!r}; leave it out")
        if not given[needed] and not bundled:
            raise ValueError(f"kind = {self.kind!r} needs [data.{needed}]")
        if self.kind == "text" and self.label is None:
            raise ValueError('kind = "text" needs label = "COLUMN"')
        if self.kind == "tabular" and self.label is None and not bundled:
            raise ValueError('kind = "tabular" needs label = "COLUMN"')
        return self

    @model_validator(mode="after")
    def _labels_are_not_inputs(self) -> Self:
        """A label or a person's name among the inputs makes a model worthless or worse."""
        if self.classes is not None and self.target_bounds is not None:
            raise ValueError("classes and target_bounds: give classes to classify, target_bounds to regress")
        inputs = set(self.columns) | ({self.text.column} if self.text else set())
        for field in ("label", "person"):
            if getattr(self, field) in inputs:
                raise ValueError(f"{field} = {getattr(self, field)!r} is an input as well; leave it out there")
        if self.label is not None and self.label in (self.person, self.department_column):
            raise ValueError(f"label = {self.label!r} is also the person or the department; name another column")
        listed = {column: settings.categories or () for column, settings in self.columns.items()}
        for column, values in {**listed, "label": self.classes or ()}.items():
            for value in values:
                if value in self.missing:
                    raise ValueError(f"{column}: {value!r} is listed here and in missing; drop it from one")
        return self

    @property
    def group_column(self) -> str | None:
        """The column that deals rows out to departments, where there is one."""
        return self.department_column or (self.partition.column if self.partition else None)

    def located(self, base: Path) -> DataSettings:
        """Return these settings with relative paths taken from the folder ``base`` (that of the run.toml)."""
        changes: dict[str, Any] = {
            field: _under(base, getattr(self, field))
            for field in ("path", "labels_path")
            if getattr(self, field) is not None
        }
        if self.departments is not None:
            changes["departments"] = {name: _under(base, path) for name, path in self.departments.items()}
        if self.test is not None and self.test.path is not None:
            labels = self.test.labels_path
            changes["test"] = TestSettings(
                path=_under(base, self.test.path),
                labels_path=None if labels is None else _under(base, labels),
            )
        if self.text is not None and self.text.vocabulary_file is not None:
            file = _under(base, self.text.vocabulary_file)
            changes["text"] = self.text.model_copy(update={"vocabulary_file": file})
        return self.model_copy(update=changes)

    def signature(self) -> Signature:
        """Return the shape of a prepared record and of its label.

        Reads public sources alone: the test set where ``classes`` or ``target_bounds`` are left to it, and a
        vocabulary file.

        Raises:
            DataError: a public source cannot be read, or leaves the classes open.
        """
        from models.inputs.resolve import signature_of  # noqa: PLC0415  (resolve reads by this schema)

        return signature_of(self)

    def refuse_paths(self) -> None:
        """Refuse settings that name any file: for a department that was sent them by somebody else.

        Raises:
            SettingsIncomplete: naming the field. Complete settings, as ``public_part`` gives, name none.
        """
        named = [field for field in sorted(_PRIVATE_TO_THE_BENCH | {"test"}) if getattr(self, field)]
        if self.text is not None and self.text.vocabulary_file is not None:
            named.append("text.vocabulary_file")
        if named:
            raise SettingsIncomplete(
                f"data.{named[0]}: settings from elsewhere may not name files here; send public_part()"
            )

    def public_part(self) -> dict[str, Any]:
        """Return what a server sends to departments: complete, without paths, plain JSON values.

        ``DataSettings.model_validate(public_part())`` prepares records exactly as these settings do.

        Raises:
            DataError: as ``signature``.
        """
        from models.inputs.resolve import resolve  # noqa: PLC0415  (resolve reads by this schema)

        return resolve(self).model_dump(mode="json", exclude=_PRIVATE_TO_THE_BENCH | {"test"}, exclude_none=True)


def _under(base: Path, path: str) -> str:
    """Resolve one path against ``base``; bundled sets have no path."""
    if path.startswith("sklearn:"):
        return path
    prefix = "hf:" if path.startswith("hf:") else ""
    return prefix + str(base / path.removeprefix("hf:"))
