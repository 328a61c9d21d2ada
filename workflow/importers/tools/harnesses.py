r"""Samples that evaluation tools write: lm-evaluation-harness and lighteval.

lm-eval writes one line for each document and filter into `samples_<task>_<time>.jsonl`: `resps` has
all n texts of the document, and the metric is their mean. lighteval writes `details_*.parquet` with
one row for each document, and no verdict of a single sample either. If the mean is that of a score
that is 0 or 1, it gives the exact number of correct samples; in addition rlready checks the texts.

    {"doc_id": 1, "target": "42", "resps": [["\\boxed{42}", ...]], "filter": "all8",
     "metrics": ["exact_match"], "exact_match": 0.625}      lm-eval 0.4.13; no `filter` before 0.4.4
    doc{query, choices, gold_index, id}, metric{"avg@n:n=8": 0.625}, model_response{text[8]}
    full_prompt, choices, gold_index, predictions, metrics  lighteval up to 0.8
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlready.registry.digest import digest
from rlready.registry.errors import SamplesError
from rlready.workflow.importers.drawn import Drawn, Settings
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.source_rows import SourceRow, shown_names

_SAMPLES_NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:-]+)?$")
_DETAILS_NAME = re.compile(r"details_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:-]+)?$")
_ACCURACY = (
    *("exact_match", "acc", "accuracy", "math_verify", "pass@1", "pass_at_1", "em"),
    *("quasi_exact_match", "extractive_match", "prefix_exact_match", "score", "mean"),
)
"""Metrics whose value for one sample is 0 or 1, the best first."""
_PASS_AT_ONE = re.compile(r"(pass@k:k=1&n=\d+|pass@1:\d+_samples|avg@n:n=\d+|avg@n|avg@\d+)")
_FIRST_ONLY = re.compile(r"(take_first|first|score-first|none|strict-match|flexible-extract)$")


def lm_eval(file: SourceFile, score: str | None) -> Iterator[Drawn | Settings]:
    """Yield the samples of each document, once: by the filter that keeps most of its texts."""
    match = _SAMPLES_NAME.match(file.path.name.partition(".jsonl")[0].removesuffix(".json"))
    task = match["task"] if match else file.path.stem
    # As in lm-eval's results: `exact_match,flexible-extract` is a metric and a filter.
    score, _, named = (score or "").partition(",")
    chosen: str | None = named or None
    seen: dict[str, SourceRow] = {}
    for row in file.rows():
        name = row.text("filter") if row.has("filter") else ""
        chosen = _best_filter(file) if chosen is None else chosen
        if name != chosen:
            continue
        key = row.text("doc_id")
        if not seen:
            yield Settings(series=task, values=_generation(row, chosen))
        if key in seen:
            row.refuse(
                "doc_id",
                f"is {key}, as in {seen[key].place}",
                why="a document occurs once in a filter; files of two runs were joined, or "
                "lm-eval before 0.4.4 wrote two filters without their names",
                fix="Keep the lines of one run and one filter",
            )
        seen[key] = SourceRow(row.path, row.place, {})
        drawn = _document(row, task, score or None)
        if drawn is not None:
            yield drawn
    if named and not seen:
        raise SamplesError(f"{file.path} has no filter {named!r}", fix="Correct --score")


def _best_filter(file: SourceFile) -> str:
    """Return the filter of the first document that keeps the most texts."""
    kept: dict[str, int] = {}
    first: str | None = None
    for row in file.rows():
        first = row.text("doc_id") if first is None else first
        if row.text("doc_id") != first and len(kept) > 0:
            break
        name = row.text("filter") if row.has("filter") else ""
        filtered = row.sequence("filtered_resps")
        inner = filtered[0] if filtered and isinstance(filtered[0], list) else filtered
        kept.setdefault(name, len(inner))
    return max(kept, key=lambda name: kept[name]) if kept else ""


def _document(row: SourceRow, task: str, score: str | None) -> Drawn | None:
    requests = row.sequence("resps")
    texts = requests[0] if len(requests) == 1 and isinstance(requests[0], list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        return _one_verdict(row, task, score)
    filtered = row.sequence("filtered_resps")
    kept = filtered[0] if filtered and isinstance(filtered[0], list) else filtered
    metric = score or _metric_name(row)
    if metric is None or isinstance(row.values.get(metric), list):
        return None  # a loss: its value is a pair of a sum and a weight
    value = row.score(metric)
    has_all = len(kept) == len(texts)
    return Drawn(
        series=task,
        problem=row.text("doc_id"),
        where=row.where,
        score_field=metric,
        share=value if has_all and len(texts) > 1 else None,
        scores=[value] if len(texts) == 1 else (),
        question=_prompt(row),
        golds=_target(row),
        texts=texts,
    )


def _one_verdict(row: SourceRow, task: str, score: str | None) -> Drawn | None:
    """Return a document without texts, such as multiple choice: one sample, judged by lm-eval."""
    metric = score or _metric_name(row)
    if metric is None or not isinstance(row.values.get(metric), bool | int | float):
        return None
    return Drawn(
        series=task,
        problem=row.text("doc_id"),
        where=row.where,
        score_field=metric,
        scores=[row.number(metric)],
        question=_prompt(row),
    )


def _metric_name(row: SourceRow) -> str | None:
    names = [str(name) for name in row.sequence("metrics")] if row.has("metrics") else row.values
    known = [name for name in _ACCURACY if name in names]
    if known:
        return known[0]
    if not row.has("metrics"):
        return None
    numbers = [n for n in names if isinstance(row.values.get(n), bool | int | float)]
    if len(numbers) == 1:
        return numbers[0]
    if not numbers:
        return None
    row.refuse(
        "metrics",
        f"names {shown_names(numbers)}",
        why="none of them is known as a share of correct samples",
        fix="Name the one that is: --score METRIC",
    )


def _prompt(row: SourceRow) -> str | None:
    """Return the prompt of the first request: an object since 0.4.3, a list before."""
    arguments: Any = row.values.get("arguments")
    for key in ("gen_args_0", 0, "arg_0", 0):
        if isinstance(arguments, dict) and isinstance(key, str) and key in arguments:
            arguments = arguments[key]
        elif isinstance(arguments, list) and isinstance(key, int) and arguments:
            arguments = arguments[0]
    return arguments if isinstance(arguments, str) else None


def _generation(row: SourceRow, chosen: str) -> dict[str, Any]:
    """Return how the texts were drawn: the second argument of the request, and the filter."""
    arguments: Any = row.values.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    values = first.get("arg_1") if isinstance(first, dict) else None
    return {"filter": chosen, "generation": values if isinstance(values, dict) else {}}


def _target(row: SourceRow) -> tuple[str, ...]:
    value = row.values.get("target")
    values = value if isinstance(value, list) else [value]
    return tuple(str(v) for v in values if isinstance(v, str | int | float) and str(v).strip())


def lighteval(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield the samples of each document of lighteval 0.9 and later."""
    seen: dict[str, str] = {}
    for row in file.rows():
        doc, response = row.inner("doc"), row.inner("model_response")
        texts = response.sequence("text")
        metric = row.inner("metric")
        key = _document_key(doc, row)
        _refuse_twice(doc, key, seen, row)
        choices = [str(choice) for choice in doc.sequence("choices")]
        yield _detail(file, metric, score, texts, key, row, doc.conversation("query"),
                      _chosen(doc, choices), doc.values.get("task_name"))  # fmt: skip


def lighteval_old(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield the samples of each document of lighteval up to 0.8, whose columns are flat."""
    for number, row in enumerate(file.rows(), 1):
        texts = row.sequence("predictions")
        # A single text was stored as a list in a list.
        texts = texts[0] if len(texts) == 1 and isinstance(texts[0], list) else texts
        choices = [str(choice) for choice in row.sequence("choices")] if row.has("choices") else []
        golds = _chosen(row, choices) if choices else _flat_golds(row)
        yield _detail(file, row.inner("metrics"), score, texts, str(number), row,
                      row.conversation("full_prompt"), golds, None)  # fmt: skip


def _detail(
    file: SourceFile,
    metric: SourceRow,
    score: str | None,
    texts: Sequence[Any],
    key: str,
    row: SourceRow,
    question: str,
    golds: tuple[str, ...],
    task: object,
) -> Drawn:
    if not texts or not all(isinstance(text, str) for text in texts):
        row.refuse("text", "holds no generated texts", why="only generative tasks are read")
    name = score or _share_metric(metric, len(texts))
    match = _DETAILS_NAME.match(file.path.stem)
    full = task if isinstance(task, str) else (match["task"] if match else file.path.stem)
    parts = full.split("|")  # `suite|task|shots|0` up to 0.12, `task|shots` later
    value = None if name is None else metric.score(name)
    return Drawn(
        series=parts[1] if len(parts) > 2 else parts[0],
        problem=key,
        where=row.where,
        score_field=f"{metric.prefix}{name}",
        share=value if len(texts) > 1 else None,
        scores=[value] if len(texts) == 1 else (),
        question=question,
        golds=golds,
        texts=list(texts),
    )


def _share_metric(metric: SourceRow, n_texts: int) -> str | None:
    """Return the metric that is the mean over all samples; None if there is none.

    lighteval divides by the configured n (huggingface/lighteval issue 771), so that a metric with
    another n than the number of texts is not a mean over them.
    """
    for name in metric.values:
        match = _PASS_AT_ONE.fullmatch(name)
        numbers = re.findall(r"\d+", name.partition("n=")[2] or name.partition(":")[2])
        if match and (not numbers or int(numbers[-1]) == n_texts):
            return name
    known = [name for name in _ACCURACY if name in metric.values]
    return known[0] if known and n_texts == 1 else None


def _document_key(doc: SourceRow, row: SourceRow) -> str:
    if doc.has("id"):
        return doc.text("id")
    return digest([doc.conversation("query"), row.place])


def _refuse_twice(doc: SourceRow, key: str, seen: dict[str, str], row: SourceRow) -> None:
    if key in seen:
        doc.refuse("id", f"is {key}, as in {seen[key]}", fix="Keep one of the two rows")
    seen[key] = row.place


def _chosen(doc: SourceRow, choices: Sequence[str]) -> tuple[str, ...]:
    index = doc.value("gold_index")
    indices = index if isinstance(index, list) else [index]
    if not all(isinstance(i, int) and 0 <= i < len(choices) for i in indices):
        doc.refuse("gold_index", f"is {index}, and there are {len(choices)} choices")
    return tuple(_plain(choices[i]) for i in indices)


def _flat_golds(row: SourceRow) -> tuple[str, ...]:
    value = row.values.get("gold")
    values = value if isinstance(value, list) else [value]
    return tuple(_plain(str(v)) for v in values if v is not None)


def _plain(text: str) -> str:
    """Return a reference answer without the `$` that lighteval writes around it."""
    inner = text.strip()
    return inner[1:-1] if len(inner) > 2 and inner[0] == inner[-1] == "$" else inner
