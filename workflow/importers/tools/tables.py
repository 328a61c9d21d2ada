r"""Plain tables: counts of correct samples, or one row a sample, as CSV, JSON lines or Parquet.

    problem,n,c                                    counts, also with benchmark and step
    problem,sample,correct                         one row a sample
    {"problem_id": "p1", "score": 1, "completion": "...", "answer": "7"}

Accepted names: problem: `problem_id`, `problem`, `id`, `task_id`, `question`, `prompt`; score:
`correct`, `is_correct`, `score`, `reward`, `acc`; text: `completion`, `text`, `output`, `response`;
reference answer: `gold`, `answer`, `target`, `ground_truth`; benchmark: `benchmark`, `dataset`,
`data_source`, `task`. A curve of numbers at steps is read by `rlready outcome --curve`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlready.workflow.importers.drawn import Drawn
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.source_rows import SourceRow, alike

_PROBLEM = ("problem_id", "problem", "id", "task_id", "question", "prompt")
_SCORE = ("correct", "is_correct", "score", "reward", "acc")
_TEXT = ("completion", "text", "output", "response")
_GOLD = ("gold", "answer", "target", "ground_truth")
_BENCHMARK = ("benchmark", "dataset", "data_source", "task")
_INDEX = ("sample", "sample_index", "sample_idx")


def is_counts(file: SourceFile) -> bool:
    """Return whether the file has counts of correct samples."""
    return _first(file.names, _PROBLEM) is not None and {"n", "c"} <= set(file.names)


def is_samples(file: SourceFile) -> bool:
    """Return whether the file has a row for each sample."""
    has_score = _first(file.names, _SCORE) is not None
    has_text = _first(file.names, _TEXT) is not None and _first(file.names, _GOLD) is not None
    return _first(file.names, _PROBLEM) is not None and (has_score or has_text)


def counts(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield the samples of each row of counts."""
    seen: dict[tuple[object, ...], str] = {}
    for row in alike(file.rows(), *_BENCHMARK, "step"):
        n, c = row.whole("n"), row.whole("c")
        common = _common(row, file)
        key = (common["series"], common["step"], common["problem"])
        if key in seen:
            row.refuse("n", f"is given twice for a problem: here and in {seen[key]}")
        seen[key] = row.place
        if not 0 <= c <= n or n < 1:
            row.refuse("c", f"is {c}, and n is {n}", fix="0 <= c <= n, and n is 1 or more")
        yield Drawn(
            **common,
            score_field="c",
            scores=[1.0] * c + [0.0] * (n - c),
        )


def samples(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a row."""
    name = score or _first(file.names, _SCORE)
    text, gold, index = (_first(file.names, names) for names in (_TEXT, _GOLD, _INDEX))
    for row in alike(file.rows(), *_BENCHMARK, "step", *_INDEX):
        yield Drawn(
            **_common(row, file),
            score_field=name or "score",
            scores=() if name is None else [row.score(name)],
            # A completion may be empty, and an empty cell is null.
            texts=() if text is None else [row.conversation(text) if row.has(text) else ""],
            golds=() if gold is None else (row.text(gold),),
            sample_index=None if index is None else row.whole(index),
        )


def _common(row: SourceRow, file: SourceFile) -> dict[str, Any]:
    problem = _first(file.names, _PROBLEM)
    assert problem is not None  # `is_counts` and `is_samples` require it
    benchmark = _first(list(row.values), _BENCHMARK)
    question = next((n for n in ("question", "prompt") if row.has(n)), None)
    return {
        "series": row.text(benchmark) if benchmark else file.path.name[: -len(file.suffix)],
        "is_named": True,
        "step": row.whole("step") if row.has("step") else None,
        "problem": row.text(problem) if problem != "prompt" else row.conversation(problem),
        "where": row.where,
        "question": row.conversation(question) if question else None,
    }


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
