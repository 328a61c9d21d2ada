"""The columns of a part file: a sample's own, and its verdicts in each answer format.

What is looked for in a sample changes no sample, so the verdicts of each answer format have columns
of their own beside it, and parts from before there were formats have those of `boxed` alone.
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
    """Columns of the verdicts in an answer format; those of `boxed` are older than the others."""
    return JUDGED if answer_format == "boxed" else [f"{name}_{answer_format}" for name in JUDGED]


def version_columns(answer_formats: Sequence[AnswerFormat]) -> list[str]:
    """Columns that say which checker gave the verdicts, one for each answer format."""
    return [verdict_columns(answer_format)[-1] for answer_format in answer_formats]


def is_open(table: pa.Table, checker_version: str, answer_formats: Sequence[AnswerFormat]) -> bool:
    """Whether a sample lacks the verdict of this checker in one of the answer formats."""
    versions = {v for name in version_columns(answer_formats) for v in table[name].to_pylist()}
    return versions != {checker_version}


def check_rows(table: pa.Table, problem_ids: set[str]) -> None:
    """Check what can be checked of a part without a digest, as older versions wrote them.

    Raises:
        DamagedError: if a row cannot be a sample of these problems.
    """
    strange = set(table["problem_id"].to_pylist()) - problem_ids
    if strange:
        raise DamagedError(f"problem {strange.pop()!r} is not in the benchmark")
    if set(table["finish_reason"].to_pylist()) - set(get_args(FinishReason)):
        raise DamagedError("a sample has an unknown finish_reason")
    for name in {verdict_columns(answer_format)[0] for answer_format in ANSWER_FORMATS}:
        given = set(table[name].to_pylist()) if name in table.column_names else set()
        if given - {None, *(verdict.value for verdict in Verdict)}:
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
    """Columns of a part, or all of them after a look at their digest.

    Args:
        path: of the part.
        columns: to be read; None for all.
        needed: columns that it has to have; by default those that are read.
        judged: further columns of verdicts, empty where the part does not have them yet.

    Raises:
        DamagedError: if it is not a Parquet file, is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = set(pq.read_schema(path).names) if judged else set()
        chosen = (
            None if columns is None else [*columns, *(name for name in judged if name in there)]
        )
        table = pq.read_table(path, columns=chosen, page_checksum_verification=True)
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
    """The columns of a sample, without its verdicts."""
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
