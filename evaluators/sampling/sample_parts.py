"""The columns of a part file: those of the samples, and verdicts in each answer format.

A judgement does not change a sample, so the verdicts of each answer format have columns of their
own. Parts from before there were answer formats have those of `boxed` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rlready.evaluators.checked_files import DamagedError, check_table
from rlready.registry.records import ANSWER_FORMATS, AnswerFormat, FinishReason, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

JUDGED = ["verdict", "extracted", "checker_version"]
"""Columns of the verdicts in the answer format `boxed`."""


def verdict_columns(answer_format: AnswerFormat) -> list[str]:
    """Return the columns of an answer format; those of `boxed` are older and have no suffix."""
    return JUDGED if answer_format == "boxed" else [f"{name}_{answer_format}" for name in JUDGED]


def version_columns(answer_formats: Sequence[AnswerFormat]) -> list[str]:
    """Return the columns with the version of the checker, one for each answer format."""
    return [verdict_columns(answer_format)[-1] for answer_format in answer_formats]


def is_open(table: pa.Table, checker_version: str, answer_formats: Sequence[AnswerFormat]) -> bool:
    """Return whether a sample lacks the verdict of this checker in one of the answer formats."""
    versions = {v for name in version_columns(answer_formats) for v in table[name].to_pylist()}
    return versions != {checker_version}


def check_rows(table: pa.Table, problem_ids: set[str]) -> None:
    """Check the rows of a part, which has no digest if an older version wrote it.

    Raises:
        DamagedError: if a row is not a sample of these problems.
    """
    unknown_ids = set(table["problem_id"].to_pylist()) - problem_ids
    if unknown_ids:
        raise DamagedError(f"problem {unknown_ids.pop()!r} is not in the benchmark")
    if set(table["finish_reason"].to_pylist()) - set(get_args(FinishReason)):
        raise DamagedError("a sample has an unknown finish_reason")
    for name in {verdict_columns(answer_format)[0] for answer_format in ANSWER_FORMATS}:
        verdicts = set(table[name].to_pylist()) if name in table.column_names else set()
        if verdicts - {None, *(verdict.value for verdict in Verdict)}:
            raise DamagedError("a sample has an unknown verdict")
    numbers = [*table["n_tokens"].to_pylist(), *table["sample_index"].to_pylist()]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise DamagedError("a sample has no index, or no number of tokens")


def read_part(
    path: Path,
    columns: list[str] | None,
    needed: Sequence[str] | None = None,
    judged: Sequence[str] = (),
) -> pa.Table:
    """Return columns of a part, or all of them after a check of their digest.

    Args:
        path: path of the part.
        columns: columns to read; None for all.
        needed: columns that the part must have; by default those that are read.
        judged: further columns of verdicts, empty where the part does not have them yet.

    Raises:
        DamagedError: if it is not a Parquet file, is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = set(pq.read_schema(path).names) if judged else set()
        some = None if columns is None else [*columns, *(n for n in judged if n in present)]
        table = pq.read_table(path, columns=some, page_checksum_verification=True)
        if columns is None:
            check_table(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error).partition("\n")[0]) from error
    if set(needed or columns or [*sample_schema().names, *JUDGED]) - set(table.column_names):
        raise DamagedError("a column is missing")
    for name in judged:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def sample_schema() -> pa.Schema:
    """Return the columns of a sample, without its verdicts."""
    import pyarrow as pa

    return pa.schema(
        [
            ("problem_id", pa.string()),
            ("sample_index", pa.int32()),
            ("seed", pa.int64()),
            ("text", pa.string()),
            ("n_tokens", pa.int32()),
            ("finish_reason", pa.string()),
            ("logprob_sum", pa.float64()),
            ("entropy_sum", pa.float64()),
        ]
    )
