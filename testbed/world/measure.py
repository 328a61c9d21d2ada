"""Measuring world checkpoints: draw samples, judge them with the exact verifier, count.

The counts are those of `evaluators.pass_at_k`, so pass@k with its standard errors comes from there.
`rlready evaluate` gives the same counts for the benchmarks whose answers are numbers, at the cost
of a general verifier (`benchmarks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry import records
from rlready.testbed.world.puzzles import boxed, reward
from rlready.testbed.world.solutions import AnyPuzzle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

MAX_TOKENS = 48
"""The longest right solution has 40."""


def protocol(seed: int = 0, temperature: float = 1.0) -> records.Protocol:
    """How the world's samples are drawn: the bare question, to an end token or 48 tokens."""
    return records.Protocol(
        prompt_template="{problem}", temperature=temperature, max_tokens=MAX_TOKENS, seed=seed
    )


@dataclass(frozen=True, kw_only=True)
class Item:
    """A problem of a benchmark with its id there."""

    id: str
    puzzle: AnyPuzzle

    def problem(self) -> records.Problem:
        """The record that samplers take. What has no list of answers gets a stand-in."""
        return records.Problem(
            id=self.id, text=self.puzzle.text, answers=self.puzzle.answers or ("?",)
        )


def load(folder: Path) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """Model in float32 on the CPU, in evaluation mode, and tokenizer of a checkpoint."""
    import torch

    from rlready.evaluators.checkpoints.folder import check_folder, load_model, load_tokenizer

    check_folder(folder)
    model: Any = load_model(folder, "cpu", torch.float32)
    return model, load_tokenizer(folder)


def count(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Mapping[str, Sequence[Item]],
    *,
    n_samples: int,
    drawn_by: records.Protocol,
) -> dict[str, list[ProblemCounts]]:
    """Counts of right samples of each benchmark, problem by problem.

    Args:
        model: in evaluation mode.
        tokenizer: of the same checkpoint.
        benchmarks: name -> problems with ids unique in all of them.
        n_samples: of each problem.
        drawn_by: the protocol.
    """
    from rlready.evaluators.sampling.hf import HfSampler

    items = {item.id: item for some in benchmarks.values() for item in some}
    indices = tuple(range(n_samples))
    draws = [Draw(problem=item.problem(), sample_indices=indices) for item in items.values()]
    tallies = {key: [0, 0, 0] for key in items}
    for part in HfSampler(model, tokenizer).draw(draws, drawn_by):
        for sample in part:
            tally = tallies[sample.problem_id]
            tally[0] += reward(items[sample.problem_id].puzzle, sample.text)
            tally[1] += boxed(sample.text) is None
            tally[2] += sample.finish_reason == "length"
    return {
        name: [
            ProblemCounts(
                problem_id=item.id,
                n=n_samples,
                c=tallies[item.id][0],
                n_unparsed=tallies[item.id][1],
                n_truncated=tallies[item.id][2],
            )
            for item in some
        ]
        for name, some in benchmarks.items()
    }
