"""Comma-separated values (RFC 4180): a list of rows, each a dict by the names of the first row.

With `text/csv; header=absent` each row is a list. Every value is text.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure


class CsvCodec:
    """CSV to a list of dicts (or, without a header, of lists) and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> list[Any]:
        """The rows. Raises BadMessage, naming the row, when one has too few or too many values."""
        try:
            text = raw.decode(content_type.charset).removeprefix("\ufeff")
        except (UnicodeError, LookupError) as e:
            raise BadMessage(f"the body is not valid {content_type.charset}") from e
        rows: list[list[str]] = []
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            rows.extend(row for row in reader if row)
        except csv.Error as e:
            raise BadMessage(f"the body is not valid CSV at line {reader.line_num}: {e}") from e
        if content_type.params.get("header", "").lower() == "absent" or not rows:
            return rows
        names = rows[0]
        if len(set(names)) != len(names):
            raise BadMessage("the CSV has the same column name twice")
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(names):
                raise BadMessage(
                    f"row {number} of the CSV has {len(row)} values, its header has {len(names)}"
                )
        return [dict(zip(names, row, strict=True)) for row in rows[1:]]

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write rows; the columns are those of the first one. Raises RouteFailure otherwise."""
        if not isinstance(data, list | tuple) or not all(
            isinstance(row, dict | list | tuple) for row in data
        ):
            raise RouteFailure("CSV is written from a list of rows")
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\r\n")
        if data and isinstance(data[0], dict):
            names = list(data[0])
            if content_type.params.get("header", "").lower() != "absent":
                writer.writerow(names)
            for number, row in enumerate(data, 1):
                if not isinstance(row, dict) or row.keys() - set(names):
                    raise RouteFailure(f"row {number} does not have the columns of the first row")
                writer.writerow([_text(row.get(name)) for name in names])
        else:
            writer.writerows([_text(value) for value in row] for row in data)
        try:
            return out.getvalue().encode(content_type.charset)
        except (UnicodeEncodeError, LookupError) as e:
            raise RouteFailure(f"the rows have no form in {content_type.charset}") from e


def _text(value: Any) -> str:
    if isinstance(value, dict | list | tuple | bytes):
        raise RouteFailure("a value of a CSV row is text or a number, not nested data")
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
