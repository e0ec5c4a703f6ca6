"""Rows of a dataset, read from a file or the Hugging Face hub.

If a field does not fit the schema, the error names the row and the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from eval.errors import UserError
from sar.errors import first_line, one_line, quote, shorten
from sar.grading.label import GraderName, Label, LabelError, parse_label

_INSTALL = "pip install -c constraints.txt -e '.[eval]'"


class RowError(UserError):
    """A row, or a file of rows, does not fit the dataset's schema."""


@dataclass(frozen=True)
class Row:
    """One row. `where` locates it for error messages: `gsm8k.jsonl, line 12`."""

    where: str
    index: int
    """Position in its file or split, from 0."""
    values: Mapping[str, Any]

    # Each getter raises RowError if the field is missing or has another type.

    def get_string(self, field: str) -> str:
        value = self._get(field)
        if not isinstance(value, str):
            self._refuse(field, "a string", value)
        return value

    def get_text(self, field: str) -> str:
        """A string. Raises RowError also if it is empty."""
        value = self.get_string(field)
        if not value.strip():
            raise self.make_error(field, "is empty")
        return value

    def get_integer(self, field: str) -> int:
        value = self._get(field)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(field, "a whole number", value)
        return value

    def get_booleans(self, field: str) -> list[bool]:
        """A list of booleans; null gives an empty list."""
        value = self._get(field)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, bool) for v in value):
            self._refuse(field, "a list of booleans", value)
        return list(value)

    def get_mapping(self, field: str) -> dict[str, str]:
        """An object of strings. Null entries are dropped: in a table they are absent ones."""
        value = self._get(field)
        if not isinstance(value, Mapping):
            self._refuse(field, "an object", value)
        texts = {key: text for key, text in value.items() if text is not None}
        for key, text in texts.items():
            if not isinstance(text, str):
                self._refuse(field, "a string", text, prefix=f"{quote(key)}: ")
        return texts

    def make_label(
        self, field: str, answer: str, grader: GraderName, choices: Sequence[str] = ()
    ) -> Label:
        """Makes the label of an answer that was read from `field`.

        Raises:
            RowError: the grader could find no response correct with this answer.
        """
        wanted = {"answer": answer, "grader": grader, "mode": "eval", "choices": list(choices)}
        try:
            return parse_label(wanted)
        except LabelError as error:
            raise self.make_error(field, str(error)) from error

    def make_error(self, field: str, problem: str) -> RowError:
        return RowError(f"{self.where}, field {field!r}: {problem}")

    def _get(self, field: str) -> Any:
        if field not in self.values:
            names = shorten(", ".join(map(repr, self.values)))
            raise self.make_error(field, f"is missing; the row has {names}")
        return self.values[field]

    def _refuse(self, field: str, wanted: str, value: object, prefix: str = "") -> NoReturn:
        raise self.make_error(field, f"{prefix}expected {wanted}, found {_name_type(value)}")


@dataclass(frozen=True)
class HubSource:
    """A split of a dataset on the Hugging Face hub."""

    hub_id: str
    config: str
    split: str
    revision: str
    """A full commit hash, or "main" if no commit is pinned."""

    @property
    def url(self) -> str:
        return f"https://huggingface.co/datasets/{self.hub_id}"


def read_jsonl_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file with one JSON object per line.

    Raises:
        RowError: a line is not a JSON object, or not UTF-8.
    """
    with path.open("rb") as lines:
        index = 0
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                values = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise RowError(f"{where}: not JSON: {first_line(error)}") from error
            if not isinstance(values, dict):
                raise RowError(f"{where}: expected an object, found {_name_type(values)}")
            yield Row(where, index, values)
            index += 1


def read_hub_rows(source: HubSource, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a split. It is downloaded once, then read from the `datasets` cache.

    Raises:
        RowError: the dataset cannot be loaded, or lacks a column.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise RowError(f"the hub needs the package {error.name!r}: {_INSTALL}") from error
    where = f"{source.hub_id} ({source.config}, {source.split})"
    try:
        table = load_dataset(
            source.hub_id, source.config, split=source.split, revision=source.revision
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _make_hub_error(where, error) from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise RowError(
            f"{where}, field {missing[0]!r}: is missing; the columns are "
            f"{', '.join(table.column_names)}"
        )
    # The other columns can be long; this does not decode them.
    for index, values in enumerate(table.select_columns(list(columns))):
        yield Row(f"{where}, row {index}", index, values)


def download_from_hub(source: HubSource, patterns: Sequence[str]) -> Path:
    """Downloads files of a dataset, or finds them in the cache; returns their folder.

    Raises:
        RowError: the download failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = snapshot_download(
            source.hub_id,
            repo_type="dataset",
            revision=source.revision,
            allow_patterns=list(patterns),
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _make_hub_error(source.hub_id, error) from error
    return Path(folder)


def _make_hub_error(what: str, error: Exception) -> RowError:
    return RowError(
        f"cannot load {what} from the hub: {one_line(error)}; files can be read instead, see --help"
    )


def _name_type(value: object) -> str:
    names: dict[type, str] = {
        type(None): "null", bool: "a boolean", int: "a number", float: "a number",
        str: "a string", list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)
