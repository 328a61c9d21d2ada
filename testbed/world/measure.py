"""Measurements of the world's checkpoints: draw samples, check them exactly, count.

`evaluators/metrics/pass_at_k` turns the counts into pass@k with its standard errors. For benchmarks
whose answers are numbers, `rlready evaluate` gives the same counts with its general, slower
verifier (`benchmarks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.folder import check_folder, load_model, load_tokenizer
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry import records
from rlready.testbed.world.puzzles import AnyPuzzle, boxed, reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

MAX_TOKENS = 48
"""The longest correct solution has 40."""


def protocol(seed: int = 0, temperature: float = 1.0) -> records.Protocol:
    """Return how samples are drawn: the plain question, up to an end token or 48 tokens."""
    return records.Protocol(
        prompt_template="{problem}", temperature=temperature, max_tokens=MAX_TOKENS, seed=seed
    )


@dataclass(frozen=True, kw_only=True)
class Item:
    """A problem of a benchmark with its id there."""

    id: str
    puzzle: AnyPuzzle

    def problem(self) -> records.Problem:
        """Return the record for samplers; a puzzle without reference answers gets a placeholder."""
        return records.Problem(
            id=self.id, text=self.puzzle.text, answers=self.puzzle.answers or ("?",)
        )


def load(folder: Path) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """Load model and tokenizer of a checkpoint: float32, on the CPU, in evaluation mode."""
    import torch

    check_folder(folder)
    model: Any = load_model(folder, "cpu", torch.float32)
    return model, load_tokenizer(folder)


def draw_samples(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Mapping[str, Sequence[Item]],
    *,
    n_samples: int,
    drawn_by: records.Protocol,
) -> dict[str, list[records.Sample]]:
    """Return `n_samples` of each problem, by its id, which is unique over all benchmarks."""
    items = [item for problems in benchmarks.values() for item in problems]
    indices = tuple(range(n_samples))
    draws = [Draw(problem=item.problem(), sample_indices=indices) for item in items]
    samples: dict[str, list[records.Sample]] = {item.id: [] for item in items}
    for part in HfSampler(model, tokenizer).draw(draws, drawn_by):
        for sample in part:
            samples[sample.problem_id].append(sample)
    return samples


def count(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Mapping[str, Sequence[Item]],
    *,
    n_samples: int,
    drawn_by: records.Protocol,
) -> dict[str, list[ProblemCounts]]:
    """Draw samples as `draw_samples`; return the counts of each problem by benchmark."""
    samples = draw_samples(model, tokenizer, benchmarks, n_samples=n_samples, drawn_by=drawn_by)
    return {
        name: [
            ProblemCounts(
                problem_id=item.id,
                n=n_samples,
                c=sum(reward(item.puzzle, sample.text) for sample in samples[item.id]),
                n_unparsed=sum(boxed(sample.text) is None for sample in samples[item.id]),
                n_truncated=sum(s.finish_reason == "length" for s in samples[item.id]),
            )
            for item in items
        ]
        for name, items in benchmarks.items()
    }
