"""Samples by benchmark, step and problem, with the verdicts of the tool and of rlready.

The tool's verdict of a sample is its score: 1 is correct and 0 is not. Other scores need
`--correct-above`. rlready checks the text of every sample that has a reference answer
(`evaluators/verification`), a few thousand at a time, so that no texts stay in memory. Both
verdicts are kept, and `n_differ` counts the samples on which they differ.

Where the tool only writes the mean over n samples of a problem, the number of correct ones is
n times the mean, if that is a whole number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.errors import SamplesError
from rlready.registry.records import AnswerFormat, Problem, Verdict
from rlready.workflow.importers.drawn import Drawn

if TYPE_CHECKING:
    from rlready.evaluators.verification.verifier import Verifier

_CHUNK = 8192
"""Texts that wait for their verdicts."""
_SHARE_TOLERANCE = 1e-3
"""Largest distance of n times a mean from a whole number. lighteval stores rounded products."""
MAX_SAMPLES = 20_000_000


@dataclass
class ProblemTally:
    """The samples of one problem at one step.

    Args:
        where: place of the first sample, for messages.
        question: its text, if the file has it.
        golds: its reference answers, if the file has them.
        scores: the tool's score of each sample; None where it has none.
        checked: rlready's verdict of each sample with a text and a reference answer.
        n_correct: correct samples, where the tool only writes their share.
        n_shared: samples of that share.
        n_truncated: samples that were cut; None if the file does not say it.
    """

    where: str
    question: str | None
    golds: tuple[str, ...]
    scores: list[float | None] = field(default_factory=list)
    checked: list[Verdict] = field(default_factory=list)
    indices: dict[int, int] = field(default_factory=dict)
    n_correct: int = 0
    n_shared: int = 0
    n_truncated: int | None = None

    @property
    def n_samples(self) -> int:
        """Samples with or without a score."""
        return max(len(self.scores) + self.n_shared, len(self.checked))

    def counts(self, problem: str, correct_above: float) -> ProblemCounts | None:
        """Return the counts by the tool's verdicts; None if it gave none."""
        if not self.scores and not self.n_shared:
            return None
        known = [score for score in self.scores if score is not None]
        return ProblemCounts(
            problem_id=problem,
            n=len(known) + self.n_shared,
            c=sum(score > correct_above for score in known) + self.n_correct,
            n_unscored=len(self.scores) - len(known),
            n_truncated=self.n_truncated or 0,
        )

    def checked_counts(self, problem: str) -> ProblemCounts | None:
        """Return the counts by rlready's verdicts; None if it could check nothing."""
        if not self.checked:
            return None
        by_verdict = Counter(self.checked)
        return ProblemCounts(
            problem_id=problem,
            n=len(self.checked) - by_verdict[Verdict.UNSCORED],
            c=by_verdict[Verdict.CORRECT],
            n_unparsed=by_verdict[Verdict.UNPARSED],
            n_unscored=by_verdict[Verdict.UNSCORED],
            n_truncated=self.n_truncated or 0,
        )

    def n_differ(self, correct_above: float) -> int:
        """Return the number of samples on which the verdicts differ, at least.

        Where only a share of correct samples is known, the difference of the numbers.
        """
        if not self.checked:
            return 0
        if self.n_shared:
            return abs(self.n_correct - sum(v is Verdict.CORRECT for v in self.checked))
        return sum(
            (score > correct_above) is not (verdict is Verdict.CORRECT)
            for score, verdict in zip(self.scores, self.checked, strict=False)
            if score is not None and verdict is not Verdict.UNSCORED
        )


@dataclass
class Series:
    """The samples of one benchmark, by step (None without steps) and problem."""

    name: str
    is_named: bool
    is_training: bool
    steps: dict[int | None, dict[str, ProblemTally]] = field(default_factory=dict)


class Tally:
    """Sorts samples by series, step and problem, and checks their texts.

    Args:
        verifier: checks answers; None leaves out rlready's own verdicts.
        answer_format: where the answer of a completion stands.
        correct_above: a score above this is correct; None accepts only the scores 0 and 1.
        percent: whether scores are percentages.
        advance: called with the number of further samples.
    """

    def __init__(
        self,
        verifier: Verifier | None,
        answer_format: AnswerFormat = "auto",
        correct_above: float | None = None,
        percent: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._verifier, self._format = verifier, answer_format
        self._limit, self._percent = correct_above, percent
        self._advance = advance or (lambda _: None)
        self._waiting: list[tuple[tuple[str, ...], str, ProblemTally, int]] = []
        self._golds: dict[tuple[str | None, tuple[str, ...]], tuple[str, ...]] = {}
        self._n = 0
        self.series: dict[str, Series] = {}
        self.n_replaced: Counter[tuple[str, int | None]] = Counter()
        """Samples that a later row with the same index replaced, by series and step."""

    @property
    def correct_above(self) -> float:
        """The limit between wrong and correct scores."""
        return 0.5 if self._limit is None else self._limit

    def add(self, drawn: Drawn) -> None:
        """Add the samples of a row.

        Raises:
            SamplesError: if a score is out of range, or the problem has other reference answers.
        """
        series = self.series.setdefault(
            drawn.series, Series(drawn.series, drawn.is_named, drawn.is_training)
        )
        problems = series.steps.setdefault(drawn.step, {})
        problem = problems.get(drawn.problem)
        if problem is None:
            problem = ProblemTally(drawn.where, drawn.question, drawn.golds)
            problems[drawn.problem] = problem
        elif problem.golds != drawn.golds:
            raise SamplesError(
                f"{drawn.where}: problem {_short(drawn.problem)} has the reference answer "
                f"{_listed(drawn.golds)}, and {_listed(problem.golds)} in {problem.where}",
                why="samples of one problem share their reference answers",
                fix="Keep the rows of one data set",
            )
        scores = [self._checked_score(drawn, score) for score in drawn.scores]
        n_new = max(len(scores), len(drawn.texts))
        if drawn.share is not None:
            n_new = len(drawn.texts)
            problem.n_correct += self._whole(drawn, drawn.share, n_new)
            problem.n_shared += n_new
        start = self._start(problem, drawn, n_new)
        _place(problem.scores, start, scores)
        if drawn.is_truncated:
            problem.n_truncated = (problem.n_truncated or 0) + sum(drawn.is_truncated)
        if self._verifier is not None and drawn.golds and len(drawn.texts) == n_new:
            golds = self._accepted(drawn)
            _place(problem.checked, start, [Verdict.UNSCORED] * n_new)
            for number, text in enumerate(drawn.texts):
                self._waiting.append((golds, text, problem, start + number))
        self._n += n_new
        if self._n > MAX_SAMPLES:
            raise SamplesError(f"{drawn.where}: more than {MAX_SAMPLES} samples")
        self._advance(n_new)
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Check the texts that wait for their verdicts."""
        if self._verifier is None or not self._waiting:
            return
        items = [(golds, text) for golds, text, _, _ in self._waiting]
        results = self._verifier.check(items, answer_format=self._format)
        for (_, _, problem, index), result in zip(self._waiting, results, strict=True):
            problem.checked[index] = result.verdict
        self._waiting = []

    def _start(self, problem: ProblemTally, drawn: Drawn, n_new: int) -> int:
        """Return where the new samples go; a later row with the same index replaces the earlier."""
        if drawn.sample_index is None:
            return problem.n_samples - (n_new if drawn.share is not None else 0)
        start = problem.indices.get(drawn.sample_index)
        if start is None:
            start = problem.indices[drawn.sample_index] = problem.n_samples
            return start
        self.n_replaced[drawn.series, drawn.step] += n_new
        return start

    def _checked_score(self, drawn: Drawn, score: float | None) -> float | None:
        if score is None:
            return None
        if self._percent:
            score = score / 100.0
        if self._limit is not None:
            return score
        if score not in (0.0, drawn.full_score):
            fix = "Give --correct-above X: a sample with a higher score counts as correct"
            if 1.0 < score <= 100.0:
                fix += "; or --percent, if the scores are percentages"
            raise SamplesError(
                f"{drawn.where}: the field {drawn.score_field} is {score:g}, not 0 or "
                f"{drawn.full_score:g}",
                why="a score says here whether a sample is correct",
                fix=fix,
            )
        return score / drawn.full_score

    def _whole(self, drawn: Drawn, share: float, n: int) -> int:
        share = share / 100.0 if self._percent else share
        number = share * n
        if not -_SHARE_TOLERANCE <= number <= n + _SHARE_TOLERANCE:
            raise SamplesError(
                f"{drawn.where}: the field {drawn.score_field} is {share:g}",
                why="a share of correct samples is between 0 and 1",
                fix="If it is a percentage, give --percent",
            )
        if abs(number - round(number)) > _SHARE_TOLERANCE:
            raise SamplesError(
                f"{drawn.where}: the field {drawn.score_field} is {share:g}, which is {number:g} "
                f"correct samples of {n}",
                why="it is not a mean of scores that are 0 or 1",
                fix="Name a metric that is: --score METRIC",
            )
        return round(number)

    def _accepted(self, drawn: Drawn) -> tuple[str, ...]:
        """Return the reference answers of the check, as `evaluate` makes them."""
        from rlready.evaluators.verification.accepted_answers import accepted_answers

        key = (drawn.question, drawn.golds)
        golds = self._golds.get(key)
        if golds is None:
            text = drawn.question if drawn.question and drawn.question.strip() else "?"
            problem = Problem(id="imported", text=text, answers=drawn.golds)
            golds = self._golds[key] = accepted_answers(problem)
        return golds


def uneven(problems: dict[str, ProblemTally]) -> str | None:
    """Return a remark if the problems have different numbers of samples."""
    sizes = Counter(problem.n_samples for problem in problems.values())
    if len(sizes) < 2:
        return None
    usual = sizes.most_common(1)[0][0]
    key, odd = next((k, p) for k, p in problems.items() if p.n_samples != usual)
    text = (
        f"{sum(sizes.values()) - sizes[usual]} of {len(problems)} problems do not have {usual} "
        f"samples; {_short(key)} ({odd.where}) has {odd.n_samples}"
    )
    if odd.n_samples > usual and odd.n_samples % usual == 0:
        text += ". A problem with a multiple of the usual number probably occurs more than once"
    return text + ". pass@k averages over the problems with k or more samples"


def _place(values: list, start: int, new: Sequence) -> None:  # type: ignore[type-arg]
    """Put values into a list from a place on, which may be its end."""
    values[start : start + len(new)] = new


def _short(key: str) -> str:
    return key if len(key) <= 40 else f"{key[:12]}..."


def _listed(golds: Sequence[str]) -> str:
    return ", ".join(map(repr, golds)) or "none"
