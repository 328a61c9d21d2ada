"""Read the rows of a trial's manifest: all that a trainer needs to get its training data.

    from rlready.workflow import read_manifest

    rows = [{"messages": row.messages()} for row in read_manifest("search/mix/trial-0007")]
    trainer = SFTTrainer(model, train_dataset=Dataset.from_list(rows), ...)

The rows are those of one epoch, in an order that the manifest's seed determines. A file that has
changed since, even if only the order of its rows has, is refused by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.evaluators.benchmarks.rows import Row
from rlready.evaluators.heldout.examples import HeldoutForm, example_rows
from rlready.evaluators.heldout.rows import conversation
from rlready.registry.digest import file_sha256
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_json_object

FORMAT = 1
"""Version of the manifest's format."""


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One training example.

    Args:
        source: name of its source.
        row: its position in the file, from 0; blank lines do not count.
        values: the row as it stands in the file.
        where: file and line, for messages.
        fields: names of the file's fields, if the space file has any for the source.

    Example:
        >>> row = next(read_manifest(folder))
        >>> row.source, row.messages()[0]
        ('gsm8k', {'role': 'user', 'content': '2 + 2?'})
    """

    source: str
    row: int
    values: Mapping[str, Any]
    where: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def messages(self) -> list[dict[str, Any]]:
        """Return the row as turns with `role` and `content`, the conversational form of TRL.

        Raises:
            BenchmarkError: if the row is in none of the formats of `rlready evaluate --held-out`.
        """
        values = HeldoutForm(fields=self.fields).values(Row(self.where, self.values))
        return [message.keys() for message in conversation(values, self.where).messages]


def read_manifest(
    path: Path | str, files: Mapping[str, Path | str] | None = None
) -> Iterator[ManifestRow]:
    """Yield the rows of one epoch, shuffled by the seed of the manifest.

    Args:
        path: a manifest, or the folder of a trial.
        files: where the file of a source is on this machine; default: the path in the manifest.

    Raises:
        ConfigError: if the manifest cannot be read, a file is missing, or it has changed since the
            manifest was written.

    Example:
        >>> [row.row for row in read_manifest(folder)]
        [1, 0]
    """
    path = Path(path)
    path = path / "manifest.json" if path.is_dir() else path
    values = read_json_object(path, ConfigError)
    try:
        if values["format"] != FORMAT:
            raise ConfigError(f"{path} has the format {values['format']!r}", fix="Ask again")
        sources = [
            (str(s["source"]), Path(s["path"]), str(s["sha256"]), dict(s["fields"]), s["rows"])
            for s in values["sources"]
        ]
        seed = int(values["seed"])
        if not all(isinstance(row, int) for *_, rows in sources for row in rows):
            raise TypeError("a row is not a whole number")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a manifest of `rlready search ask`",
            why=f"{type(error).__name__}: {error}",
        ) from error
    rows: list[ManifestRow] = []
    for name, file, sha256, fields, wanted in sources:
        file = Path((files or {}).get(name, file))
        check_unchanged(name, file, sha256)
        rows += _of_file(name, file, fields, wanted)
    for index in shuffled(len(rows), [seed]):
        yield rows[index]


def check_unchanged(name: str, path: Path, sha256: str, cache: Path | None = None) -> None:
    """Check that the file of a source is the one from which rows were drawn.

    Raises:
        ConfigError: if it is missing or has changed.
    """
    if not path.is_file():
        raise ConfigError(
            f"the file of source {name} is missing: {path}",
            fix="Correct its path, or give the file as files={...} of read_manifest",
        )
    now = file_sha256(path, cache)
    if now != sha256:
        raise ConfigError(
            f"the file of source {name} has changed: {path}",
            why=f"its rows were drawn from the file with the SHA-256 {sha256[:12]}, this one has "
            f"{now[:12]}; another content or order gives other rows under the same numbers",
            fix="Restore the file, or start a study under another name",
        )


def shuffled(n: int, seed: list[int]) -> NDArray[np.intp]:
    """Return 0..n-1 in an order that is the same in every version of NumPy.

    NumPy promises that for the raw numbers of a bit generator, and not for `permutation`.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def _of_file(
    name: str, path: Path, fields: Mapping[str, str], wanted: list[int]
) -> list[ManifestRow]:
    chosen = set(wanted)
    rows = {
        i: ManifestRow(source=name, row=i, values=row.values, where=row.where, fields=fields)
        for i, row in enumerate(example_rows(path, lambda where, names: list(names)))
        if i in chosen
    }
    return [rows[i] for i in wanted]
