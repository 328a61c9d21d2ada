"""What the readers of other tools yield: samples of a problem, and numbers at a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlready.workflow.importers.source_files import SourceFile

Meaning = Literal["mean", "pass@k", "any of n", "with replacement", "other"]
"""What a logged number is: a mean over samples and problems (pass@1), the unbiased pass@k, the
share of problems with a correct sample among n, a best@N or maj@N that was drawn with replacement
(never pass@k), or another number that is not read."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples of one problem, with what the tool says about them.

    Args:
        series: name of the benchmark, as far as the tool names it.
        is_named: whether `series` names a benchmark. If not, the user has to (`--map`).
        is_training: whether the prompts are those that RL trained on.
        step: of the trainer; None for an evaluation without one.
        problem: what identifies the problem in its series.
        where: file and place, for messages.
        score_field: the field that holds the scores, for messages.
        scores: score of each sample by the tool; None where it has none.
        full_score: score of a correct sample.
        share: mean over the samples of scores that are 0 or 1, where the tool only writes that.
        question: text of the prompt, if the file has it.
        golds: reference answers, if the file has them.
        texts: the completions, if the file has them.
        sample_index: index of the first sample among those of its problem, if the file has it.
        is_truncated: whether each sample was cut, if the file has it.
    """

    series: str
    is_named: bool = True
    is_training: bool = False
    step: int | None = None
    problem: str
    where: str
    score_field: str = "score"
    scores: Sequence[float | None] = ()
    full_score: float = 1.0
    share: float | None = None
    question: str | None = None
    golds: tuple[str, ...] = ()
    texts: Sequence[str] = ()
    sample_index: int | None = None
    is_truncated: Sequence[bool] = ()


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A number that a trainer logged at a step.

    Args:
        series: name of the benchmark, as far as the tool names it.
        metric: the whole name of the number.
        meaning: what it is.
        k: of pass@k; None for other numbers.
        step: of the trainer.
        value: the number.
        where: file and place, for messages.
        run: name of the run, where a file holds several.
        is_named: as in `Drawn`.
        is_training: as in `Drawn`.
        n: samples a problem, where the name of the number gives them.
    """

    series: str
    metric: str
    meaning: Meaning
    k: int | None = None
    step: float
    value: float
    where: str
    run: str = ""
    is_named: bool = True
    is_training: bool = False
    n: int | None = None


@dataclass(frozen=True)
class Note:
    """A remark of a reader about a file, for the user."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the samples of a series were drawn, as far as the tool says it: JSON values."""

    series: str
    values: Mapping[str, Any]


Item = Drawn | Logged | Note | Settings


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of file that a tool writes.

    Args:
        tool: name of the tool on the command line.
        what: description of the file, for people.
        suffixes: of the file's name.
        needs: names of fields that every such file has.
        any_of: patterns of names, of which at least one occurs; empty for no such condition.
        file_name: pattern of the file's name; empty for any.
        read: yields what a file holds. Its second argument is the field that holds the scores,
            if the user names one.
        looks_like: further test of a file; None for no such test.
    """

    tool: str
    what: str
    suffixes: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    any_of: tuple[str, ...] = ()
    file_name: str = ""
    read: Callable[[SourceFile, str | None], Iterator[Item]]
    looks_like: Callable[[SourceFile], bool] | None = None
