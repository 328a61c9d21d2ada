"""The flags of `rlready preflight`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import click

from rlready.registry.errors import ConfigError
from rlready.registry.records import AnswerFormat
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.flags import Flag, split_paths

PAGE = "preflight.html"


@dataclass(frozen=True, kw_only=True)
class PreflightConfig:
    """Settings of `rlready preflight`: one field per flag. `Args:` contains the help of each flag.

    Example:
        config = PreflightConfig("runs/sft-3", rl_prompts=Path("rl.jsonl"), group_size=16)

    Args:
        checkpoint: Folder written by save_pretrained, hub id, or registered checkpoint.
        rl_prompts: Prompts of the RL run: JSONL, JSON, Parquet (verl's too) or CSV, with a
            reference answer in each row unless --reward is given.
        group_size: Samples of a GRPO group.
        groups: Groups in a batch of the RL run.
        samples: Samples per prompt, at least --group-size. Samples of earlier calls count.
            [default: --group-size]
        n_prompts: Measure N prompts, drawn at random by --seed.  [default: all]
        reward: Reward function in place of the reference answers, as module:function or
            file.py:function. It is called as function(prompt, completion, row) and returns a
            number. It runs in child processes.
        reward_timeout: Seconds that one call of the reward function may take.
        solved_reward: Smallest reward of a solved sample.
        rl_max_tokens: Maximum tokens of a sample in the RL run; a longer one is cut.
        sft_data: SFT data in which to look for the prompts, in a format of --held-out of
            `evaluate`. Repeatable.
        write_filtered: Write the rows without the prompts whose samples all have one reward to this
            new file: .jsonl, or .parquet if the prompts are Parquet.
        temperature: Sampling temperature of the RL run.
        top_p: Share of the probability mass that is kept.
        prompt_template: Text that contains {problem}, sent to the model as the user's message.
            [default: the prompt as it stands]
        answer_format: Where the answer of a sample stands: boxed, hash, phrase, last or auto.
        skip_unreadable_golds: Leave out reference answers that cannot be checked, instead of
            stopping at them.
        engine: What draws the samples: hf (auto takes it), vllm, ray or server.
        engine_options: Option of the engine, for example dtype=float32. Repeatable.
        batch_size: Rows drawn together.  [default: auto, by memory]
        device: auto, cpu, cuda or cuda:N.
        seed: Base of the seeds of the samples.
        samples_dir: Folder of samples and verdicts.
        out: File of the page.
    """

    checkpoint: str = field(kw_only=False)
    rl_prompts: Annotated[Path, Flag(metavar="FILE")]
    group_size: Annotated[int, click.IntRange(min=2)] = 8
    groups: Annotated[int, click.IntRange(min=1)] = 64
    samples: Annotated[int | None, Flag(metavar="N")] = None
    n_prompts: Annotated[int | None, Flag(metavar="N")] = None
    reward: Annotated[str | None, Flag(metavar="MODULE:FUNCTION")] = None
    reward_timeout: float = 10.0
    solved_reward: float = 1.0
    rl_max_tokens: Annotated[int, click.IntRange(min=1)] = 2048
    sft_data: Annotated[tuple[str, ...], Flag(metavar="FILE", split=split_paths)] = ()
    write_filtered: Annotated[Path | None, Flag(metavar="FILE")] = None
    temperature: float = 1.0
    top_p: float = 1.0
    prompt_template: Annotated[Path | None, Flag(metavar="FILE")] = None
    answer_format: Annotated[AnswerFormat, click.STRING] = "boxed"
    skip_unreadable_golds: bool = False
    engine: str = "auto"
    engine_options: Annotated[tuple[str, ...], Flag("--engine-option", metavar="KEY=VALUE")] = ()
    batch_size: Annotated[int | None, Flag(metavar="N|auto", none="auto")] = None
    device: str = "auto"
    seed: int = 0
    samples_dir: Path = Path("samples")
    out: Annotated[Path, Flag(metavar="FILE.html")] = Path(PAGE)

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < self.group_size:
            raise ConfigError(
                f"--samples {self.samples} with --group-size {self.group_size}",
                why="the share of groups without variance needs a whole group of each prompt",
                fix=f"Give --samples {self.group_size} or more",
            )
        if self.temperature == 0.0:
            raise ConfigError(
                "--temperature is 0",
                why="greedy samples are all equal, and so are their rewards",
                fix="Give the temperature of the RL run, usually 1",
            )
        if self.n_prompts is not None and self.n_prompts < 1:
            raise ConfigError(f"--n-prompts is {self.n_prompts}", fix="Give 1 or more")

    @property
    def n_samples(self) -> int:
        """Samples of each prompt."""
        return self.samples or self.group_size

    def to_evaluate(self, checkpoint: str) -> EvaluateConfig:
        """Return the settings with which `evaluate` draws and judges the same samples."""
        return EvaluateConfig(
            checkpoint=checkpoint,
            samples=self.n_samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.rl_max_tokens,
            prompt_template=self.prompt_template,
            answer_format=self.answer_format,
            skip_unreadable_golds=self.skip_unreadable_golds,
            engine=self.engine,
            engine_options=self.engine_options,
            batch_size=self.batch_size,
            device=self.device,
            seed=self.seed,
            samples_dir=self.samples_dir,
        )
