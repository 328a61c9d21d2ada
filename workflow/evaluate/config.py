"""The resolved configuration of `rlready evaluate`: frozen, checked, logged whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.problems import check_answer_format
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml
from rlready.registry.records import AnswerFormat, CheckpointKind, Recipe
from rlready.workflow.evaluate.engines import check_engine

DEFAULT_TARGET_SE = 0.01

_K_LADDER = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `rlready evaluate` was asked for; one field a flag, the same defaults.

    Args:
        checkpoint: folder, or hub id `org/name[@revision]`.
        suite: name of a built-in suite or path of a TOML file; None for none.
        benchmarks: `NAME[:FORMAT]=FILE` each; added to the suite, or in place of its NAME.
        held_out: `[NAME=]FILE` each.
        samples: a problem.
        k: of pass@k, ascending, each at most `samples` unless `adaptive`.
        adaptive: draw where pass@k of the largest k is least sure, at most `samples` a problem on
            average, and estimate pass@k for every k.
        target_se: adaptive sampling ends at this standard error (a probability); giving it asks
            for adaptive sampling.
        temperature: of sampling; 0 is greedy.
        top_p: share of the probability mass kept.
        max_tokens: a sample is cut after so many tokens.
        prompt_template: file with `{problem}`; None for the default template.
        answer_format: where the answer of a sample stands, one of `records.ANSWER_FORMATS`; of the
            benchmarks that have none of their own.
        skip_unreadable_golds: leave out reference answers that cannot be checked, and problems
            without another one, instead of stopping at them.
        engine: `auto` or one of `engines.KNOWN_ENGINES`.
        engine_options: `KEY=VALUE` each, what the engine's options are called.
        batch_size: rows drawn together; None picks it by memory.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        base: folder or hub id of the base model that the checkpoint is compared with.
        recipe: TOML file of the SFT recipe.
        parents: ids of registered checkpoints that this one was made from.
        step: optimizer step of the checkpoint.
        kind: base, sft or rl; None is what the registry knows, else sft.
        name: for people; None is the folder's name.
        limit: use the first so many problems of each benchmark and held-out set.
        seed: base of the per-sample seeds.
        samples_dir: where samples are kept.
        experiment: MLflow experiment.
        tracking_uri: of MLflow; None is MLFLOW_TRACKING_URI, else MLflow's own default.
    """

    checkpoint: str
    suite: str | None = None
    benchmarks: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    samples: int = 64
    k: tuple[int, ...] = ()
    adaptive: bool = False
    target_se: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 2048
    prompt_template: Path | None = None
    answer_format: AnswerFormat = "boxed"
    skip_unreadable_golds: bool = False
    engine: str = "auto"
    engine_options: tuple[str, ...] = ()
    batch_size: int | None = None
    device: str = "auto"
    base: str | None = None
    recipe: Path | None = None
    parents: tuple[str, ...] = ()
    step: int | None = None
    kind: CheckpointKind | None = None
    name: str | None = None
    limit: int | None = None
    seed: int = 0
    samples_dir: Path = Path("samples")
    experiment: str = "rlready"
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        ladder = tuple(k for k in _K_LADDER if k <= self.samples)
        object.__setattr__(self, "k", tuple(sorted(set(self.k))) or ladder)
        object.__setattr__(self, "adaptive", self.adaptive or self.target_se is not None)
        if self.adaptive and self.target_se is None:
            object.__setattr__(self, "target_se", DEFAULT_TARGET_SE)
        self._check_numbers()
        if self.suite is None and not self.benchmarks and not self.held_out:
            object.__setattr__(self, "suite", "math7")
        check_answer_format(self.answer_format, "--answer-format")
        check_engine(self.engine, self.engine_options)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def _check_numbers(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"--samples is {self.samples}", fix="Give 1 or more")
        if self.k[0] < 1:
            raise ConfigError(f"--k holds {self.k[0]}", fix="Give numbers of 1 or more")
        if self.target_se is not None and not 0.0 < self.target_se < 1.0:
            raise ConfigError(
                f"--target-se is {self.target_se}", fix="Give a probability such as 0.01"
            )
        if self.k[-1] > self.samples and not self.adaptive:
            raise ConfigError(
                f"--k asks for pass@{self.k[-1]} from {self.samples} samples a problem",
                why="pass@k is undefined for fewer than k samples",
                fix=f"Give --samples {self.k[-1]} or more, --k up to {self.samples}, or --adaptive",
            )
        if self.temperature == 0.0 and self.samples > 1:
            raise ConfigError(
                f"--temperature 0 with --samples {self.samples}",
                why="greedy decoding gives the same sample every time",
                fix="Give --samples 1, or a temperature above 0",
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}", fix="Give 1 or more")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch-size is {self.batch_size}", fix="Give auto, or 1 or more")


def load_recipe(path: Path) -> Recipe:
    """The SFT recipe in a TOML file; keys that rlready does not know are kept.

    Raises:
        ConfigError: if the file cannot be read or is no TOML.
        RecordError: if a value cannot be meant.
    """
    values = read_toml(path)
    return Recipe.from_dict(values)
