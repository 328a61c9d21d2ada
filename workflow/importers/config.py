"""Settings of `rlready import`, one field per flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlready.registry.errors import ConfigError
from rlready.registry.outcomes import Statistic
from rlready.registry.records import AnswerFormat
from rlready.workflow.flags import Flag, split_pairs
from rlready.workflow.importers.reading import HowToRead

Source = Literal[
    "auto",
    "verl",
    "trl",
    "prime-rl",
    "nemo-rl",
    "skyrl",
    "areal",
    "open-instruct",
    "ms-swift",
    "openrlhf",
    "slime",
    "tinker",
    "lm-eval",
    "lighteval",
    "inspect",
    "table",
    "registry",
]
Verdicts = Literal["tool", "rlready"]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings of `rlready import`, one field per flag; `Args:` holds their help.

    Example:
        >>> config = ImportConfig("lm-eval", Path("results"), checkpoint="sft-3")

    Args:
        tool: The tool that wrote the files; auto finds it, registry reads `rlready export`.
        path: A file, or a folder that is searched.
        checkpoint: The registered checkpoint that was evaluated, or that RL started from. Without
            it, the command shows what the files hold and stores nothing.
        benchmarks: NAME in the files is the benchmark BENCHMARK of the registry. Repeatable.
        verdicts: Whose verdicts pass@k is computed from: the tool's, or rlready's on the texts.
        score: Field, metric or scorer that says whether a sample is correct, if there are several;
            METRIC,FILTER for lm-eval.
        correct_above: A sample with a score above X is correct.  [default: scores are 0 or 1]
        percent: Scores are percentages, 0 to 100.
        answer_format: Where rlready looks for the answer in a text.
        no_check: Do not check the texts of the samples with rlready's own verifier.
        run: Name of the run, if a file holds several.
        algorithm: Algorithm of the RL run.
        budget: Steps of RL at which the outcome is taken.  [default: the last step]
        statistics: Which number of the RL run: value_at_budget, peak, smoothed_peak_5,
            last_5_mean. Repeatable.  [default: value_at_budget]
        seed: Seed of the RL run.
        rl_recipe: Everything else about the RL run: data, group size, temperature, ...
    """

    tool: Annotated[Source, Flag(metavar="TOOL")] = field(kw_only=False)
    path: Path = field(kw_only=False)
    checkpoint: Annotated[str | None, Flag(metavar="ID")] = None
    benchmarks: Annotated[
        tuple[str, ...], Flag("--map", metavar="NAME=BENCHMARK", split=split_pairs)
    ] = ()
    verdicts: Verdicts = "tool"
    score: Annotated[str | None, Flag(metavar="NAME")] = None
    correct_above: Annotated[float | None, Flag(metavar="X")] = None
    percent: bool = False
    answer_format: AnswerFormat = "auto"
    no_check: bool = False
    run: Annotated[str | None, Flag(metavar="NAME")] = None
    algorithm: str = "grpo"
    budget: Annotated[float | None, Flag(metavar="STEPS")] = None
    statistics: Annotated[tuple[Statistic, ...], Flag("--statistic", metavar="NAME")] = (
        "value_at_budget",
    )
    seed: Annotated[int | None, Flag(metavar="N")] = None
    rl_recipe: Annotated[Path | None, Flag(metavar="FILE.toml")] = None

    def __post_init__(self) -> None:
        for text in self.benchmarks:
            if not all(part.strip() for part in text.partition("=")):
                raise ConfigError(
                    f"--map {text!r} does not name a benchmark",
                    fix="Give --map NAME=BENCHMARK, for example --map val/math=math500",
                )
        if self.verdicts == "rlready" and self.no_check:
            raise ConfigError("--verdicts rlready is given with --no-check", fix="Give one of them")
        if self.budget is not None and not 0.0 < self.budget < float("inf"):
            raise ConfigError(
                f"--budget is {self.budget}", fix="Give the steps of RL, a number above 0"
            )

    @property
    def how(self) -> HowToRead:
        """How the files are read."""
        return HowToRead(
            score=self.score,
            correct_above=self.correct_above,
            percent=self.percent,
            answer_format=self.answer_format,
            check=not self.no_check,
            run=self.run,
        )

    def names(self) -> dict[str, str]:
        """Return the benchmarks that the user names, by the name in the files."""
        pairs = [text.rpartition("=") for text in self.benchmarks]
        return {name.strip(): benchmark.strip() for name, _, benchmark in pairs}
