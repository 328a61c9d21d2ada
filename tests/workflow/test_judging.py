"""Verdicts beside the drawing: all of them, and an error that is not lost in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.verification.verifier import CheckedAnswer, Verifier
from rlready.registry.errors import EvaluationError
from rlready.registry.records import AnswerFormat, Sample, Verdict
from rlready.workflow.evaluate.judging import Judging

GOLDS = {"a": ("1",), "b": ("2",)}


def part(first: int, n: int = 3) -> list[Sample]:
    return [
        Sample(
            problem_id=problem,
            sample_index=first + i,
            seed=first + i,
            text=f"\\boxed{{{i}}}",
            n_tokens=3,
            finish_reason="stop",
        )
        for problem in GOLDS
        for i in range(n)
    ]


class Failing(Verifier):
    """A checker whose child processes cannot be started."""

    def check(
        self,
        items: Sequence[tuple[tuple[str, ...], str]],
        on_progress: Callable[[int], None] | None = None,
        answer_format: AnswerFormat = "boxed",
    ) -> list[CheckedAnswer]:
        raise EvaluationError("no child process can be started")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[SampleFolder]:
    folder = SampleFolder(tmp_path / "samples", list(GOLDS))
    with folder.lock():
        yield folder


def test_every_part_gets_its_verdicts(folder: SampleFolder) -> None:
    advanced: list[int] = []
    with Verifier(n_workers=1) as verifier, Judging(folder, verifier, GOLDS) as judging:
        for first in range(0, 30, 3):
            samples = part(first)
            judging.add(folder.add(samples), samples)
        before = judging.n_judged
        assert before + judging.n_left == 60
        judging.finish(advanced.append)
    assert judging.n_judged == 60
    assert before + sum(advanced) == 60
    for problem in folder.judged(30):
        wanted = [int(GOLDS[problem.problem_id][0]) == i % 3 for i in range(30)]
        assert [verdict is Verdict.CORRECT for verdict in problem.verdicts] == wanted


def test_a_checker_that_fails_ends_the_evaluation_and_loses_no_sample(folder: SampleFolder) -> None:
    def judge() -> None:
        with Failing(n_workers=1) as verifier, Judging(folder, verifier, GOLDS) as judging:
            samples = part(0)
            judging.add(folder.add(samples), samples)
            judging.finish(lambda n: None)

    with pytest.raises(EvaluationError, match="no child process"):
        judge()
    assert folder.missing(3) == {}


def test_an_engine_that_fails_loses_no_sample(folder: SampleFolder) -> None:
    def draw() -> None:
        with Verifier(n_workers=1) as verifier, Judging(folder, verifier, GOLDS) as judging:
            samples = part(0)
            judging.add(folder.add(samples), samples)
            raise EvaluationError("the engine is gone")

    with pytest.raises(EvaluationError, match="engine"):
        draw()
    assert folder.missing(3) == {}
