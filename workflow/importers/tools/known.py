"""The forms of files that are read, by tool: what a file must have to be recognised."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlready.workflow.importers.drawn import Form, Item
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.tools import episodes, harnesses, inspect, scalars, tables, trainers

_LINES = (".jsonl", ".jsonl.gz")
_TABLES = (*_LINES, ".csv", ".parquet", ".json")
_LOGS = (*_LINES, ".csv", ".json")


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


def _log(tool: str, suffixes: tuple[str, ...] = _LOGS, *needs: str) -> Form:
    def read(file: SourceFile, score: str | None) -> Iterator[Item]:
        return scalars.read_log(tool, file)

    patterns = scalars.patterns_of(tool)
    if tool == "verl":  # file_logger.jsonl nests its numbers
        patterns += tuple(rf"data\.{pattern}" for pattern in patterns)
    return Form(
        tool=tool,
        what="scores at steps",
        suffixes=suffixes,
        needs=frozenset(needs),
        any_of=patterns,
        read=read,
    )


def _trainer_state(file: SourceFile, score: str | None) -> Iterator[Item]:
    for whole in file.rows():
        for row in whole.items("log_history"):
            step = scalars.step_of(row, "trl")
            found = list(scalars.logged("trl", row, -1.0 if step is None else step))
            if found and step is None:
                scalars.raise_no_step(row)
            yield from found


_HAS_SAMPLES = _needs("eval", "samples", "status")

FORMS: tuple[Form, ...] = (
    Form(tool="verl", what="validation generations", suffixes=_LINES,
         needs=_needs("input", "output", "score"), read=trainers.verl),
    _log("verl"),
    Form(tool="trl", what="completions", suffixes=(".parquet",),
         needs=_needs("step", "prompt", "completion"), read=trainers.trl),
    Form(tool="trl", what="trainer_state.json", suffixes=(".json",),
         needs=_needs("log_history"), read=_trainer_state),
    _log("trl", (".csv", ".jsonl")),
    Form(tool="ms-swift", what="completions.jsonl", suffixes=_LINES, any_of=("step", "gen_step"),
         needs=_needs("prompt", "completion"), read=trainers.ms_swift,
         looks_like=lambda file: _first_is_list(file, "completion")),
    _log("ms-swift", _LINES, "global_step/max_steps"),
    Form(tool="prime-rl", what="traces.jsonl", suffixes=_LINES, needs=_needs("traces"),
         read=episodes.episodes),
    Form(tool="prime-rl", what="rollouts of verifiers", suffixes=_LINES,
         needs=_needs("example_id", "reward"), read=episodes.rollouts),
    _log("prime-rl"),
    Form(tool="nemo-rl", what="val_data_step<N>.jsonl", suffixes=_LINES,
         needs=_needs("content", "rewards", "idx"), file_name=r"val_.*", read=trainers.nemo_rl),
    Form(tool="nemo-rl", what="evaluation_data.json", suffixes=(".json",),
         needs=_needs("evaluation_data"), read=trainers.nemo_rl_evaluation),
    _log("nemo-rl"),
    Form(tool="skyrl", what="dumped_evals/global_step_<N>_evals/*.jsonl", suffixes=_LINES,
         needs=_needs("input_prompt", "output_response", "score"), read=trainers.skyrl),
    _log("skyrl", (".csv", ".jsonl")),
    Form(tool="areal", what="eval-rollout/<version>/<task>.jsonl", suffixes=_LINES,
         needs=_needs("task_id", "sample_idx", "reward", "completion"), read=trainers.areal),
    _log("areal"),
    Form(tool="open-instruct", what="*_rollouts_*.jsonl", suffixes=_LINES,
         needs=_needs("step", "prompt_idx", "sample_idx", "reward"), read=trainers.open_instruct),
    _log("open-instruct"),
    _log("openrlhf"),
    _log("slime", _LOGS, "eval/step"),
    _log("tinker"),
    Form(tool="lm-eval", what="samples_<task>_<time>.jsonl", suffixes=(*_LINES, ".json"),
         needs=_needs("doc_id", "resps", "filtered_resps"), read=harnesses.lm_eval),
    Form(tool="lighteval", what="details_<task>_<time>.parquet", suffixes=(".parquet",),
         needs=_needs("doc", "metric", "model_response"), read=harnesses.lighteval),
    Form(tool="lighteval", what="details_<task>_<time>.parquet of lighteval up to 0.8",
         suffixes=(".parquet",), needs=_needs("full_prompt", "predictions", "metrics"),
         read=harnesses.lighteval_old),
    Form(tool="inspect", what="log archive", suffixes=(".eval",), read=inspect.inspect_archive),
    Form(tool="inspect", what="JSON log", suffixes=(".json",), needs=_HAS_SAMPLES,
         read=inspect.inspect_json),
    Form(tool="table", what="counts: problem, n, c", suffixes=_TABLES, read=tables.counts,
         needs=_needs("n", "c"), looks_like=tables.is_counts),
    Form(tool="table", what="samples: problem and score", suffixes=_TABLES, read=tables.samples,
         looks_like=lambda file: tables.is_samples(file) and not tables.is_counts(file)),
)  # fmt: skip
"""Every form that is read. `auto` tries `table` last, because its names are so common."""

TOOLS: tuple[str, ...] = tuple(dict.fromkeys(form.tool for form in FORMS))
TRAINERS = tuple(tool for tool in TOOLS if tool not in ("lm-eval", "lighteval", "inspect", "table"))

_BESIDE: tuple[tuple[str, str], ...] = (
    (r"results_.*\.json", "totals of an evaluation, whose samples are read instead"),
    (r"config\.json", "settings"),
    (r"aggregated_results\.jsonl", "totals of an evaluation, whose samples are read instead"),
    (r"checkpoints\.jsonl", "a list of checkpoints"),
)
"""Files that stand beside others and hold no samples of their own."""


def matches(form: Form, file: SourceFile) -> bool:
    """Return whether a file has the form."""
    if file.suffix not in form.suffixes:
        return False
    if form.file_name and not re.fullmatch(form.file_name, file.path.name):
        return False
    names = file.names
    if not form.needs <= set(names):
        return False
    if form.any_of and not any(re.fullmatch(p, name) for p in form.any_of for name in names):
        return False
    return form.looks_like is None or form.looks_like(file)


def beside(file: SourceFile) -> str:
    """Return what a file is that only stands beside others; an empty text for other files."""
    return next((what for p, what in _BESIDE if re.fullmatch(p, file.path.name)), "")


def _first_is_list(file: SourceFile, name: str) -> bool:
    row = next(iter(file.rows()), None)
    return row is not None and isinstance(row.values.get(name), list)
