"""What the samples folder holds of a registered checkpoint: counts, texts and losses.

The registry has the numbers; the files behind them are matched to these numbers, so that a
comparison never mixes the counts of another protocol or of an older held-out set into one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.checked_files import DamagedError
from rlready.evaluators.heldout.loss import ExampleLoss
from rlready.evaluators.heldout.loss_files import Losses, parse_losses
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.sampling.sample_files import counts_name
from rlready.evaluators.sampling.sample_parts import read_part, verdict_columns
from rlready.registry.errors import RlreadyError
from rlready.registry.records import ANSWER_FORMATS, AnswerFormat, Protocol, Proxy, Verdict
from rlready.registry.store import StoredCheckpoint

_SAME = 1e-9
"""Relative difference up to which a loss from a file is the loss in the registry."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of one checkpoint to a benchmark under one protocol.

    Args:
        folder: of the samples.
        protocol: that drew them.
        counts: one entry per problem.
    """

    folder: Path
    protocol: Protocol
    counts: tuple[ProblemCounts, ...]


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """One sample of a problem as a person reads it; the text is whatever the model wrote."""

    sample_index: int
    text: str
    verdict: str
    finish_reason: str


def answers_behind(stored: StoredCheckpoint, proxy: Proxy, samples_dir: Path) -> Answers | None:
    """Return the counts behind a `pass_at_k` of the registry; None if they are not on this disk."""
    root = samples_dir / stored.checkpoint.id
    for folder in sorted(root.glob(f"{proxy.benchmark_digest}-*")):
        for protocol in _protocols(folder):
            if protocol.digest != proxy.protocol_digest:
                continue
            counts = _counts(folder, protocol.answer_format)
            if counts is not None:
                return Answers(folder=folder, protocol=protocol, counts=counts)
    return None


def protocol_behind(
    stored: StoredCheckpoint, benchmark_digest: str, protocol_digest: str, samples_dir: Path
) -> Protocol | None:
    """Return the protocol with a digest, from the samples; None if they are not on this disk."""
    folders = (samples_dir / stored.checkpoint.id).glob(f"{benchmark_digest}-*")
    found = (p for folder in sorted(folders) for p in _protocols(folder))
    return next((p for p in found if p.digest == protocol_digest), None)


def losses_behind(
    stored: StoredCheckpoint, proxy: Proxy, samples_dir: Path
) -> tuple[ExampleLoss, ...] | None:
    """Return the losses of the examples behind a `heldout_nll`; None if they are not on this disk.

    A damaged file counts as missing. It is left alone: only an evaluation may replace it.
    """
    for path in sorted((samples_dir / stored.checkpoint.id).glob("heldout-*.json")):
        losses = _losses(path)
        if losses is None or losses.benchmark_digest != proxy.benchmark_digest:
            continue
        n_tokens = sum(example.n_tokens for example in losses.examples)
        nll = sum(example.nll_sum for example in losses.examples)
        if n_tokens and abs(nll / n_tokens - proxy.value) <= _SAME * abs(proxy.value):
            return losses.examples
    return None


def sample_texts(
    answers: Answers, problem_ids: Collection[str], *, is_correct: bool
) -> dict[str, ShownSample]:
    """Return the first sample of each problem that is CORRECT, or that has another verdict.

    Args:
        answers: of the checkpoint.
        problem_ids: problems to look for; one without such a sample is left out.
        is_correct: False asks for a sample with any other verdict.
    """
    column = verdict_columns(answers.protocol.answer_format)[0]
    names = ["problem_id", "sample_index", "text", "finish_reason"]
    chosen: dict[str, ShownSample] = {}
    for path in sorted(answers.folder.glob("part-*.parquet")):
        try:
            rows = read_part(path, names, judged=[column]).to_pylist()
        except DamagedError:
            continue
        for row in rows:
            problem, index = row["problem_id"], row["sample_index"]
            if problem not in problem_ids or row[column] is None:
                continue
            if (row[column] == Verdict.CORRECT.value) != is_correct:
                continue
            if problem in chosen and chosen[problem].sample_index <= index:
                continue
            chosen[problem] = ShownSample(
                sample_index=index,
                text=row["text"],
                verdict=row[column],
                finish_reason=row["finish_reason"],
            )
    return chosen


def _protocols(folder: Path) -> Iterator[Protocol]:
    """Yield the protocol that a folder names, once for each answer format."""
    try:
        values: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))["protocol"]
        values = {**values, "stop": tuple(values.get("stop", ()))}
        for answer_format in ANSWER_FORMATS:
            yield Protocol(**{**values, "answer_format": answer_format})
    except (OSError, ValueError, KeyError, TypeError, RlreadyError):
        return  # a file that somebody changed: nothing in it can be trusted


def _counts(folder: Path, answer_format: AnswerFormat) -> tuple[ProblemCounts, ...] | None:
    name = counts_name(answer_format)
    try:
        rows = read_part(folder / name, None, ["problem_id", "n", "c"]).to_pylist()
        return tuple(ProblemCounts(**row) for row in rows)
    except (DamagedError, TypeError):
        return None


def _losses(path: Path) -> Losses | None:
    try:
        return parse_losses(path)
    except (DamagedError, OSError, ValueError, TypeError, KeyError):
        return None
