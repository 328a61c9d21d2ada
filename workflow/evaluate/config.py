"""The resolved configuration of `rlready evaluate`: frozen, checked, logged whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml
from rlready.registry.records import AnswerFormat, CheckpointKind, Recipe
from rlready.workflow.flags import Flag, split_pairs, split_paths

_TARGET_SE = 0.01
_KS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    r"""Settings of `rlready evaluate`: one field per flag. `Args:` contains the help of each flag.

    Example:
        config = EvaluateConfig(checkpoint="runs/sft-3", held_out=("val.jsonl",), samples=256)
        report = evaluate_checkpoint(config, MlflowStore("sqlite:///mlflow.db"), Clock())

    Args:
        checkpoint: Folder written by save_pretrained, or hub id org/name[@revision].
        suite: Built-in suite (math7) or a suite's TOML file.  [default: math7, if neither
            --benchmark nor --held-out is given]
        benchmarks: Problems in a JSONL, JSON, Parquet or CSV file. They replace the suite's
            benchmark NAME or are added to the suite. FORMAT is their own --answer-format.
            Repeatable.
        held_out: Held-out SFT examples in a JSONL, JSON, Parquet or CSV file, in the format of
            TRL, OpenAI, Alpaca or ShareGPT, or with problem+solution. Repeatable.
        response_marker: Text that stands before the response in held-out rows with a whole `text`,
            for example '### Response:'. \n and \t in it mean a line break and a tab.
        held_out_fields: Field of the held-out rows that is read as NAME (prompt, response,
            messages, ...); a dot leads into a mapping: response=extra_info.answer. Repeatable.
        samples: Samples per problem. Samples of earlier calls count; only the rest is drawn.
        k: k of pass@k.  [default: those of 1,4,16,64,256,1024 up to --samples]
        adaptive: Draw next where pass@K of the largest K is least certain, until --target-se is
            reached or --samples per problem are drawn on average. Log pass_at_K_est, which also
            uses earlier checkpoints in --samples-dir.
        target_se: Standard error (a probability) at which adaptive sampling ends. It turns
            adaptive sampling on.  [default with --adaptive: 0.01]
        temperature: Sampling temperature; 0 is greedy.
        top_p: Share of the probability mass that is kept.
        max_tokens: Maximum tokens per sample; a longer sample is cut.
        prompt_template: Text that contains {problem}, sent to the model as the user's message.
            [default: the problem, then 'Please reason step by step, and put your final answer
            within \boxed{}.']
        answer_format: Where the answer of a sample stands: boxed, hash (#### 72), phrase ('the
            answer is ...'), last (the last number or formula), or auto (the first of these that
            is there). lenient_pass_at_1 always uses auto. Another format needs no new samples.
        skip_unreadable_golds: Leave out reference answers that cannot be checked, instead of
            stopping at them. The remaining problems are named BENCHMARK-readableN.
        engine: What draws the samples: hf (auto takes it), vllm, ray, or server (any
            OpenAI-compatible endpoint that serves CHECKPOINT: --engine-option
            url=http://host:8000, key in OPENAI_API_KEY). vllm is for GPUs: on two CPU cores and a
            model of 135M parameters, hf drew 134 tokens/s and vllm 66.
        engine_options: Option of the engine, for example dtype=float32. An unknown KEY lists the
            known ones. Repeatable.
        batch_size: Rows drawn together.  [default: auto, by memory]
        device: auto, cpu, cuda or cuda:N.
        base: Base model of the SFT run (folder or hub id). It is evaluated first, then compared
            with the checkpoint (update norms, rotation, coverage ratio, off-policyness), and
            recorded as its parent. A LoRA adapter is applied to it.  [default for an adapter: the
            model that adapter_config.json names; then only the weights are compared]
        merge: Merge a LoRA adapter into its base model's weights (engine hf). Without it, the
            adapter is applied beside them; the two are different protocols, and only merged
            results share columns with those of whole models.
        recipe: TOML file that describes how the checkpoint was trained.
        parents: Registered checkpoint that this one was made from. Repeatable.
        step: Optimizer step of the checkpoint.  [default: the one in its trainer_state.json]
        kind: What the checkpoint is.  [default: what the registry says, else sft]
        name: Name for people.  [default: the folder's name]
        limit: Use the first N problems of each benchmark and held-out set, under the name
            BENCHMARK-firstN.
        seed: Base of the seeds of the samples.
        samples_dir: Folder of samples, verdicts and losses.
        experiment: MLflow experiment.
        tracking_uri: MLflow tracking URI, for example sqlite:///mlflow.db or http://host:5000.
            [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]
    """

    checkpoint: str
    suite: str | None = None
    benchmarks: Annotated[
        tuple[str, ...], Flag("--benchmark", metavar="NAME[:FORMAT]=FILE", split=split_paths)
    ] = ()
    held_out: Annotated[tuple[str, ...], Flag(metavar="[NAME=]FILE", split=split_paths)] = ()
    response_marker: Annotated[str | None, Flag(metavar="TEXT")] = None
    held_out_fields: Annotated[
        tuple[str, ...], Flag("--held-out-field", metavar="NAME=FIELD", split=split_pairs)
    ] = ()
    samples: int = 64
    k: Annotated[tuple[int, ...], Flag(metavar="K,K,...")] = ()
    adaptive: bool = False
    target_se: Annotated[float | None, Flag(metavar="X")] = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 2048
    prompt_template: Annotated[Path | None, Flag(metavar="FILE")] = None
    answer_format: Annotated[AnswerFormat, click.STRING] = "boxed"
    skip_unreadable_golds: bool = False
    engine: str = "auto"
    engine_options: Annotated[tuple[str, ...], Flag("--engine-option", metavar="KEY=VALUE")] = ()
    batch_size: Annotated[int | None, Flag(metavar="N|auto", none="auto")] = None
    device: str = "auto"
    base: Annotated[str | None, Flag(metavar="FOLDER")] = None
    merge: bool = False
    recipe: Annotated[Path | None, Flag(metavar="FILE")] = None
    parents: Annotated[tuple[str, ...], Flag("--parent", metavar="ID")] = ()
    step: Annotated[int | None, Flag(metavar="N")] = None
    kind: CheckpointKind | None = None
    name: str | None = None
    limit: Annotated[int | None, Flag(metavar="N")] = None
    seed: int = 0
    samples_dir: Path = Path("samples")
    experiment: str = "rlready"
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        default_ks = tuple(k for k in _KS if k <= self.samples)
        object.__setattr__(self, "k", tuple(sorted(set(self.k))) or default_ks)
        object.__setattr__(self, "adaptive", self.adaptive or self.target_se is not None)
        if self.adaptive and self.target_se is None:
            object.__setattr__(self, "target_se", _TARGET_SE)
        self._check_numbers()
        if self.suite is None and not self.benchmarks and not self.held_out:
            object.__setattr__(self, "suite", "math7")
        # These load numpy, which `rlready --help` does without.
        from rlready.evaluators.benchmarks.problems import check_answer_format
        from rlready.evaluators.heldout.examples import HeldoutForm
        from rlready.workflow.evaluate.engine_options import check_engine

        check_answer_format(self.answer_format, "--answer-format")
        check_engine(self.engine, self.engine_options)
        HeldoutForm.of_options(self.response_marker, self.held_out_fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluateConfig:
        """Return the configuration of `to_dict`, also after a round trip through JSON."""
        # Not at the top: `rlready --help` does without pydantic.
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(values)

    def _check_numbers(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"--samples is {self.samples}", fix="Give 1 or more")
        if self.k[0] < 1:
            raise ConfigError(f"--k contains {self.k[0]}", fix="Give numbers of 1 or more")
        if self.target_se is not None and not 0.0 < self.target_se < 1.0:
            raise ConfigError(
                f"--target-se is {self.target_se}", fix="Give a probability such as 0.01"
            )
        if self.k[-1] > self.samples and not self.adaptive:
            raise ConfigError(
                f"--k asks for pass@{self.k[-1]} from {self.samples} samples per problem",
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
    """Return the SFT recipe in a TOML file; unknown keys are kept.

    Raises:
        ConfigError: if the file cannot be read or is not TOML.
        RecordError: if a value is invalid.
    """
    return Recipe.from_dict(read_toml(path))
