"""The entropy of samples whose engine gave none, against what hf measures as it draws."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.sampling.entropy import entropy_sums
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sample_files import SampleText
from rlready.evaluators.sampling.sampler import Draw, OnProgress, Sampler
from rlready.registry import records
from rlready.registry.records import Problem, Sample
from rlready.registry.store import MemoryStore
from rlready.testbed.training.base import shipped_base
from rlready.testbed.world.benchmarks import benchmark, write_heldout
from rlready.testbed.world.measure import load
from rlready.workflow.evaluate import evaluator as steps
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engines import LocalModel
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.evaluate.report import Report
from rlready.workflow.progress import Clock

TEMPLATE = "{problem}"
N_SAMPLES = 6


class Silent:
    """The hf engine, without its entropies."""

    name = "silent"

    def __init__(self, inner: HfSampler) -> None:
        self._inner = inner

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        for part in self._inner.draw(draws, protocol, on_progress):
            yield [dataclasses.replace(sample, entropy_sum=None) for sample in part]

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def close(self) -> None:
        pass


def problems() -> list[Problem]:
    items = benchmark("chain_easy", "before", 3)
    return [Problem(id=item.id, text=item.puzzle.text, answers=("1",)) for item in items]


def test_it_is_what_the_engine_measures_while_it_draws() -> None:
    model, tokenizer = load(shipped_base())
    protocol = records.Protocol(prompt_template=TEMPLATE, max_tokens=48)
    draws = [Draw(problem=problem, sample_indices=(0, 1)) for problem in problems()]
    samples = [one for part in HfSampler(model, tokenizer).draw(draws, protocol) for one in part]
    names = [field.name for field in dataclasses.fields(SampleText)]
    texts = [SampleText(**{name: getattr(one, name) for name in names}) for one in samples]
    questions = {problem.id: problem.text for problem in problems()}
    found = entropy_sums(model, tokenizer, TEMPLATE, questions, texts)
    expected = {(one.problem_id, one.sample_index): one.entropy_sum for one in samples}
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    rows = [{"id": p.id, "problem": p.text, "answer": p.answers[0]} for p in problems()]
    (tmp_path / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompt.txt").write_text(TEMPLATE)
    return {
        "checkpoint": str(shipped_base()),
        "benchmarks": (f"chains={tmp_path / 'chains.jsonl'}",),
        "samples": N_SAMPLES,
        "max_tokens": 48,
        "prompt_template": tmp_path / "prompt.txt",
        "device": "cpu",
    }


def entropy(report: Report) -> float | None:
    found = [p.value for p in report.evaluation.proxies if p.name == "token_entropy"]
    return found[0] if found else None


def test_an_evaluation_measures_what_its_engine_does_not_give(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = (f"held={write_heldout(tmp_path, 4)[0]}",)
    spoken = evaluate_checkpoint(
        EvaluateConfig(**inputs, samples_dir=tmp_path / "spoken"), MemoryStore(), Clock()
    )

    def open_silent(config: EvaluateConfig, local: LocalModel, *_: object) -> Sampler:
        return Silent(HfSampler(local.model, local.tokenizer, None))

    monkeypatch.setattr(steps, "open_sampler", open_silent)
    silent = EvaluateConfig(**inputs, samples_dir=tmp_path / "silent")
    assert entropy(evaluate_checkpoint(silent, MemoryStore(), Clock())) is None
    with_loss = dataclasses.replace(silent, held_out=held_out)
    first = evaluate_checkpoint(with_loss, MemoryStore(), Clock())
    # Four of the six samples of each problem.
    assert entropy(first) == pytest.approx(entropy(spoken), rel=0.2)
    again = evaluate_checkpoint(with_loss, MemoryStore(), Clock())
    assert entropy(again) == entropy(first)
    assert set(again.stages) == {"logging"}
