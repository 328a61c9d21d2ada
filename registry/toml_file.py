"""TOML files that people write: read them, and check them with a pydantic model.

    class Entry(TomlTable):
        name: str
        step: int | None = None

    class Entries(TomlTable):
        checkpoint: list[Entry] = Field(min_length=1)

    entries = read_toml_file(Path("list.toml"), Entries)

An invalid file raises a `ConfigError` that names the file and the key:

    list.toml: checkpoint[0].step is 'last'. It should be a valid integer.

A validator of a model may raise `ValueError` (the message names the key) or any `RlreadyError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.foreign_files import read_toml

Table = TypeVar("Table", bound="TomlTable")


class TomlTable(BaseModel):
    """A table of a TOML file: no unknown keys, no conversions between types, finite numbers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )


def read_toml_file(path: Path, model: type[Table]) -> Table:
    """Read a TOML file as a model; raise ConfigError if it cannot be read or does not fit."""
    values = read_toml(path)
    with naming_file(path):
        return check_table(values, model)


@contextmanager
def naming_file(path: Path | str) -> Iterator[None]:
    """Put the path of a file before the message of every `RlreadyError` raised in the block."""
    try:
        yield
    except RlreadyError as error:
        raise ConfigError(f"{path}: {error.what}", why=error.why, fix=error.fix) from error


def check_table(values: Mapping[str, Any], model: type[Table], *, name: str = "") -> Table:
    """Return the model of a parsed table; raise ConfigError at the first key that does not fit.

    Args:
        values: keys and values of the table.
        model: what they have to fit.
        name: of the table in its file; empty for the whole file.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _config_error(error, model, name) from error


def _config_error(error: ValidationError, model: type[BaseModel], name: str) -> ConfigError:
    """Turn one problem that pydantic names into our message: an unknown key, or else the first."""
    problems = error.errors(include_url=False)
    # A misspelt key is also a missing one, but only the unknown key shows the mistake.
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    *outer, last = problem["loc"] or ("the file",)
    key, table = (_key([name, *keys] if name else keys) for keys in ([*outer, last], outer))
    if problem["type"] == "extra_forbidden":
        table = f"[{table}]" if table else "the file"
        return ConfigError(
            f"{table} has the unknown key {last!r}",
            fix=f"Known keys: {', '.join(_known_keys(model, outer))}",
        )
    if problem["type"] == "missing":
        return ConfigError(f"{key} is missing", fix=f"Add {key}")
    value = repr(problem["input"])
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    reason = problem["msg"].removeprefix("Value error, ").replace("Input should", "It should")
    if problem["type"] in ("model_type", "dict_type"):
        reason = f"It should be a table: write [{key}]"
    return ConfigError(f"{key} is {shown}", why=reason)


def _key(location: Sequence[str | int]) -> str:
    """Return the path of a key as TOML writes it, with the index of an entry in brackets."""
    parts = []
    for part in location:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append(f".{part}" if re.fullmatch(r"[\w -]+", part) else f".{part!r}")
    return "".join(parts).removeprefix(".")


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys of the table at a location; empty if the model does not list them."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if not location:
        return list(fields)
    first, *rest = location
    for inner in _inner_models(fields[str(first)].annotation if str(first) in fields else None):
        # The name of an entry, or its index, leads from the field to the model inside it.
        keys = {field.alias or name for name, field in inner.model_fields.items()}
        return _known_keys(inner, rest if not rest or rest[0] in keys else rest[1:])
    return []


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models inside a type such as `dict[str, Entry] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _inner_models(inner)]
