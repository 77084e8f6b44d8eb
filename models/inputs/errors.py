"""What can be wrong with data.

    DataError (ModelError, a ValueError)
    ├── SettingsIncomplete   the public specification leaves something open; the key to set is named
    ├── ExtraMissing         an optional package is not installed; the extra is named
    ├── SourceMissing        no file or folder at that path
    ├── SourceEmpty          a file without a single record
    ├── SourceTooLarge       more records than ``data.max_rows``
    ├── SourceUnreadable     not UTF-8, a broken header, ragged rows, a damaged or unsupported file
    ├── ColumnMissing        a column of the specification is not in the file; the nearest is named
    ├── TooFewRows           not enough records to train on
    ├── OneClass             every record of a department has the same label
    └── BadValue             one cell cannot be used; file, row and column are named
        └── LabelMissing     the cell is a label

A message may hold names of files and columns, row numbers and anything public; it never holds the content
of a cell, and of a folder of images neither file names nor unlisted folder names.
"""

from __future__ import annotations

from models.errors import ModelError


class DataError(ModelError):
    """Root of everything that can be wrong with a data set or its public specification."""


class SettingsIncomplete(DataError):
    """The public specification leaves something open that these data need."""


class ExtraMissing(DataError):
    """Reading this kind of source needs an optional package."""


class SourceMissing(DataError):
    """There is no file or folder at that path."""


class SourceEmpty(DataError):
    """The source holds no record."""


class SourceTooLarge(DataError):
    """The source holds more records than the specification allows."""


class SourceUnreadable(DataError):
    """The source is not in the format its name promises."""


class ColumnMissing(DataError):
    """The specification names a column that the source does not have."""


class TooFewRows(DataError):
    """The source holds too few usable records to train on."""


class OneClass(DataError):
    """Every record of a department carries the same label."""


class BadValue(DataError):
    """One cell cannot be used.

    Attributes:
        source: the file's name, without its folder.
        row: 1-based as a spreadsheet shows it: the header is row 1 and blank lines count; in arrays the first
            record is row 1.
        column: the column's name.
        problem: what is wrong with the cell, and what can be done.
    """

    def __init__(self, *, source: str, row: int, column: str, problem: str) -> None:
        super().__init__(f"{source}: row {row}, column {column!r}: {problem}")
        self.source = source
        self.row = row
        self.column = column
        self.problem = problem


class LabelMissing(BadValue):
    """A record without a label."""
