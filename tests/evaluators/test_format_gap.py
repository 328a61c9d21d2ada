"""Whole evaluations whose samples hold right answers in the wrong place; checks that failed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.metrics.proxies import SampleProxies, macro_mean, sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples, format_gap
from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.sampling.sampler import Draw, OnProgress, Sampler
from rlready.evaluators.verification.verifier import CheckedAnswer, checker_version
from rlready.registry import records
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.records import Sample, Verdict
from rlready.registry.store import MemoryStore
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.views.evaluate import evaluation_view
from rlready.workflow.evaluate import evaluator as steps
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.report import Report
from rlready.workflow.progress import Clock

C, W, P, U = Verdict.CORRECT, Verdict.INCORRECT, Verdict.UNPARSED, Verdict.UNSCORED

N_PROBLEMS = 4
TEXTS = ("So \\boxed{{{}}}.", "The answer is {}.", "It adds up.\n#### {}", "\\boxed{{{}7}}")
"""What a problem's samples say: its gold in a box, in a phrase, after a hash; a wrong box."""

Evaluate = Callable[..., Report]


class Scripted(Sampler):
    """Writes the gold of a problem in the words of `TEXTS`."""

    name = "scripted"

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return {"engine": self.name}

    def close(self) -> None:
        """See `Sampler.close`."""

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`."""
        for draw in draws:
            yield [
                Sample(
                    problem_id=draw.problem.id,
                    sample_index=index,
                    seed=index,
                    text=TEXTS[index % len(TEXTS)].format(draw.problem.answers[0]),
                    n_tokens=3,
                    finish_reason="stop",
                    entropy_sum=1.0,
                )
                for index in draw.sample_indices
            ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sft")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write(tmp_path / "toy.jsonl", [str(10 + i) for i in range(N_PROBLEMS)])


def write(path: Path, golds: Sequence[str]) -> Path:
    rows = [{"id": str(i), "problem": f"{i}?", "answer": gold} for i, gold in enumerate(golds)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def run(tmp_path: Path, toy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluates the checkpoint with scripted samples."""
    monkeypatch.setattr(steps, "open_sampler", lambda *_: Scripted())
    monkeypatch.chdir(tmp_path)

    def evaluate(*benchmarks: str, **flags: Any) -> Report:
        named = benchmarks or (f"toy={toy}",)
        config = EvaluateConfig(
            checkpoint=str(checkpoint), benchmarks=named, samples=4, device="cpu", **flags
        )
        return steps.evaluate_checkpoint(config, MemoryStore(), Clock(None))

    return evaluate


def values(report: Report, benchmark: str = "toy") -> dict[str, float]:
    metrics = report.to_dict()["metrics"][benchmark]
    return {name: entry["value"] for name, entry in metrics.items()}


def printed(report: Report) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as capture:
        console.print(evaluation_view(report, 160))
    return capture.get()


def test_right_answers_outside_a_box_are_a_gap_and_not_a_lack_of_skill(run: Evaluate) -> None:
    report = run()
    found = values(report)
    assert (found["pass_at_1"], found["lenient_pass_at_1"]) == (0.25, 0.75)
    assert found["format_gap"] == 0.5
    assert found["unparsed_share"] == 0.5
    entry = report.to_dict()["metrics"]["toy"]["format_gap"]
    assert entry["se"] >= entry["se_within"] > 0.0
    assert "pass@1 is 0.2500" in printed(report)
    assert "0.7500 ± " in printed(report)
    assert "format gap 0.5000" in printed(report)


def test_another_format_uses_the_same_samples_in_a_column_of_its_own(run: Evaluate) -> None:
    boxed = run()
    for answer_format in ("hash", "phrase", "auto", "boxed"):
        report = run(answer_format=answer_format)
        assert (report.n_drawn, report.n_found) == (0, 4 * N_PROBLEMS)
        strict = 0.75 if answer_format == "auto" else 0.25
        found = values(report)
        assert found["pass_at_1"] == strict
        assert found["lenient_pass_at_1"] == 0.75
        assert found["format_gap"] == 0.75 - strict
        digests = {p.protocol_digest for p in report.evaluation.proxies}
        assert (digests == {p.protocol_digest for p in boxed.evaluation.proxies}) is (
            answer_format == "boxed"
        )
    assert run().evaluation.id == boxed.evaluation.id


def test_a_benchmark_may_have_a_format_of_its_own(run: Evaluate, toy: Path) -> None:
    report = run(f"a:hash={toy}", f"b={toy}", f"c:last={toy}", answer_format="phrase")
    proxies = {(p.benchmark, p.name): p for p in report.evaluation.proxies}
    strict = {name: proxies[name, "pass_at_1"].value for name in "abc"}
    # The last number of three in four samples is the gold.
    assert strict == {"a": 0.25, "b": 0.25, "c": 0.75}
    assert len({proxies[name, "pass_at_1"].protocol_digest for name in "abc"}) == 3
    assert proxies["mean", "pass_at_1"].value == pytest.approx(5 / 12)
    assert report.evaluation.config["answer_formats"] == {"a": "hash", "c": "last"}


def test_an_unknown_format_is_answered_with_the_known_ones(run: Evaluate, toy: Path) -> None:
    message = r"--answer-format is 'box'.*boxed, hash, phrase, last, auto"
    with pytest.raises(ConfigError, match=message):
        run(answer_format="box")
    with pytest.raises(ConfigError, match=r"'xml'.*boxed, hash, phrase, last, auto"):
        run(f"a:xml={toy}")


def test_parts_from_before_there_were_formats_are_judged_and_not_drawn_again(
    run: Evaluate,
) -> None:
    report = run()
    parts = list(Path("samples").glob("*/*/part-*.parquet"))
    for part in parts:
        table = pq.read_table(part)
        table = table.select([n for n in table.column_names if not n.endswith("_auto")])
        pq.write_table(table.replace_schema_metadata(None), part)
    again = run()
    assert again.n_drawn == 0
    assert not again.warnings
    assert again.evaluation.id == report.evaluation.id


def _one_unscored(run: Evaluate) -> Report:
    """A report after one sample's check failed."""
    report = run()
    (path,) = (p.parent for p in Path("samples").glob("*/*/about.json"))
    folder = SampleFolder(path, [str(i) for i in range(N_PROBLEMS)])
    (part, rows), *_ = folder.unjudged("another version")
    first = {name: table_column(part, name) for name in ("verdict", "verdict_auto")}
    judged = {
        "boxed": [
            CheckedAnswer(U if i == 0 else Verdict(v), "7") for i, v in enumerate(first["verdict"])
        ],
        "auto": [
            CheckedAnswer(U if i == 0 else Verdict(v), "7")
            for i, v in enumerate(first["verdict_auto"])
        ],
    }
    assert len(rows) == len(judged["boxed"])
    folder.judge(part, judged, checker_version())  # type: ignore[arg-type]
    return report


def table_column(part: Path, name: str) -> list[Any]:
    column: list[Any] = pq.read_table(part, columns=[name])[name].to_pylist()
    return column


def test_one_unscored_sample_leaves_its_problem_out_and_the_number_there(run: Evaluate) -> None:
    before = _one_unscored(run)
    assert before.bounds == {}
    report = run()
    proxies = {p.name: p for p in report.evaluation.proxies}
    assert proxies["pass_at_4"].n_problems == N_PROBLEMS - 1
    assert proxies["pass_at_1"].n_problems == N_PROBLEMS
    ends = report.to_dict()["bounds"]["toy"]
    assert ends["pass_at_4"] == {"lower": 0.75, "upper": 1.0, "n_left_out": 1}
    assert ends["pass_at_1"] == {"lower": 3 / 16, "upper": 0.25, "n_left_out": 0}
    (warning,) = report.warnings
    assert "toy: 1 of 4 problems have fewer than 4 scored samples (1 of their samples" in warning
    assert "pass_at_4" in warning
    assert "toy: pass_at_4 of all problems is 0.7500 if every unscored sample is wrong" in printed(
        report
    )


def test_golds_that_cannot_be_read_are_left_out_under_another_name(
    run: Evaluate, tmp_path: Path
) -> None:
    bad = write(tmp_path / "bad.jsonl", ["10", "$$", "12", r"\frac{1}{2"])
    with pytest.raises(BenchmarkError, match="--skip-unreadable-golds"):
        run(f"bad={bad}")
    report = run(f"bad={bad}", skip_unreadable_golds=True)
    assert set(report.to_dict()["metrics"]) == {"bad-readable2"}
    (warning,) = report.warnings
    assert "bad: 2 reference answers cannot be checked and are left out" in warning
    assert "2 of 4 problems: problem 1 has '$$'; problem 3 has" in warning
    whole = run(skip_unreadable_golds=True)
    assert set(whole.to_dict()["metrics"]) == {"toy"}
    with pytest.raises(BenchmarkError, match="no problem whose reference answer"):
        run(f"bad={write(bad, ['$$'])}", skip_unreadable_golds=True)


# --- the numbers alone


def samples(strict: Sequence[Verdict], lenient: Sequence[Verdict] | None) -> ProblemSamples:
    n = len(strict)
    return ProblemSamples(
        problem_id="p",
        verdicts=strict,
        answers=["1"] * n,
        n_tokens=[5] * n,
        is_truncated=[False] * n,
        entropy_sums=[5.0] * n,
        lenient_verdicts=lenient,
    )


def proxies_of(*problems: ProblemSamples, k: int = 1) -> SampleProxies:
    return sample_proxies("b", "0" * 32, "1" * 32, problems, [k])


@given(st.lists(st.lists(st.sampled_from([(C, C), (P, C), (P, W), (W, W), (C, W)]), min_size=2,
                         max_size=5), min_size=2, max_size=5))  # fmt: skip
def test_the_gap_is_the_difference_of_the_two_scores(
    rows: list[list[tuple[Verdict, Verdict]]],
) -> None:
    problems = [samples(*map(list, zip(*row, strict=True))) for row in rows]
    found = {p.name: p for p in proxies_of(*problems).proxies}
    gap = found["format_gap"]
    assert gap.value == pytest.approx(found["lenient_pass_at_1"].value - found["pass_at_1"].value)
    assert gap.se is not None
    assert gap.se_within is not None
    assert gap.se >= gap.se_within >= 0.0


def test_the_error_of_the_gap_is_that_of_the_pairs() -> None:
    same = samples([C, W, W, C], [C, W, W, C])
    found = format_gap([same, same])
    assert found is not None
    assert (found.value, found.se, found.se_within) == (0.0, 0.0, 0.0)
    one = format_gap([samples([P, P, W, C], [C, W, W, C])] * 2)
    assert one is not None
    assert one.value == 0.25
    # Differences 1, 0, 0, 0: variance 1/4, over four samples, over two problems.
    assert one.se_within == pytest.approx(math.sqrt(0.25 / 4 / 2))


def test_samples_without_lenient_verdicts_have_no_gap() -> None:
    assert format_gap([samples([C], None)]) is None
    assert "format_gap" not in {p.name for p in proxies_of(samples([C, W], None)).proxies}


def test_a_problem_whose_every_check_failed_is_left_out_and_named() -> None:
    found = proxies_of(samples([C, W], [C, W]), samples([U, U], [U, U]))
    proxies = {p.name: p for p in found.proxies}
    assert proxies["pass_at_1"].value == 0.5
    assert proxies["pass_at_1"].n_problems == 1
    assert proxies["format_gap"].n_problems == 1
    assert proxies["unscored_share"].n_problems == 2
    assert "1 of 2 problems have fewer than 1 scored samples" in found.notes[0]
    assert found.bounds["pass_at_1"] == {"lower": 0.25, "upper": 0.75, "n_left_out": 1}


def test_no_problem_with_enough_scored_samples_is_no_value_but_bounds() -> None:
    found = proxies_of(samples([C, U], [C, U]), samples([W, U], [W, U]), k=2)
    assert "pass_at_2" not in {p.name for p in found.proxies}
    assert "no problem of b has so many" in found.notes[-1]
    assert found.bounds["pass_at_2"]["lower"] == 0.5


def test_the_mean_of_benchmarks_with_one_protocol_keeps_it() -> None:
    found = proxies_of(samples([C, W], [C, W])).proxies
    assert {p.protocol_digest for p in macro_mean("mean", found)} == {"1" * 32}
