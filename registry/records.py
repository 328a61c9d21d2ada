"""The records of rlready: frozen values, validated when they are created, without any I/O.

A record's id is the digest of its canonical JSON, so the same thing put twice is one record.
Records are never edited.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, get_args

from rlready.registry.digest import DIGEST_LENGTH, canonical_json, digest
from rlready.registry.errors import RecordError

CheckpointKind = Literal["base", "sft", "rl"]
FinishReason = Literal["stop", "length"]
AnswerFormat = Literal["boxed", "hash", "phrase", "last", "auto"]
AdapterUse = Literal["merged", "unmerged"]

ANSWER_FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)

_WEIGHTS_TOLERANCE = 1e-6
_PASS_AT_K = re.compile(r"pass_at_([0-9]+)")


class Verdict(StrEnum):
    """The result of checking one sample: four values, never reduced to a bool.

    Example:
        >>> Verdict("unparsed") is Verdict.UNPARSED
        True
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    """The sample holds no answer. It counts as not correct."""
    UNSCORED = "unscored"
    """The check itself failed (time, memory, crash). The sample is not counted at all."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with its accepted reference answers.

    Args:
        id: unique in its benchmark.
        text: the question as the model sees it inside the prompt template.
        answers: reference answers; any of them counts. Empty for a prompt whose reward is a
            function.
        error_tolerance: largest difference from a reference answer, as a decimal ("0.1"). None:
            the rule of the answer check for numbers.

    Example:
        >>> problem = Problem(id="sum-1", text="What is 1 + 1?", answers=("2",))
    """

    id: str
    text: str
    answers: tuple[str, ...]
    error_tolerance: str | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.text.strip():
            raise RecordError(f"problem {self.id!r} has no {'text' if self.id else 'id'}")
        if not all(answer.strip() for answer in self.answers):
            raise RecordError(f"problem {self.id!r} has an empty reference answer")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion drawn for a problem.

    Args:
        problem_id: id of the problem.
        sample_index: 0, 1, ...; unique in (problem, benchmark, protocol, checkpoint).
        seed: of this sample's stream of random numbers.
        text: decoded completion without special tokens.
        n_tokens: drawn tokens, including the end-of-sequence token.
        finish_reason: "stop" at an end token, "length" if the completion was cut.
        logprob_sum: log-probability of the drawn tokens in nats under the model at
            temperature 1 without truncation; None if the engine does not give it.
        entropy_sum: sum over the drawn positions of the next-token entropy at temperature 1,
            nats; None if the engine does not give it.

    Example:
        >>> sample = Sample(problem_id="gsm8k/3", sample_index=0, seed=7, text="It is 42.",
        ...     n_tokens=9, finish_reason="stop")
    """

    problem_id: str
    sample_index: int
    seed: int
    text: str
    n_tokens: int
    finish_reason: FinishReason
    logprob_sum: float | None = None
    entropy_sum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How samples are drawn, and where the answer stands in them.

    `draws_digest` identifies the samples, `digest` the numbers computed from them. Neither depends
    on the number of samples.

    Args:
        prompt_template: text with the placeholder `{problem}`; becomes the user's message.
        temperature: 0 is greedy.
        top_p: share of the probability mass that is kept, in (0, 1].
        max_tokens: length in tokens after which completions are cut.
        stop: texts that end a completion; the end-of-sequence tokens of the model always do.
        seed: base of the per-sample seeds.
        seed_rule: name of the rule that makes a sample's seed and stream from the base seed.
        answer_format: where the answer of a completion stands: `boxed`, `hash` (after `####`),
            `phrase` (after "the answer is"), `last` (the last number or formula), or `auto`, the
            first of these that occurs.
        adapter: `unmerged` if a LoRA adapter is applied beside its base model's weights; `merged`
            for all whole weights, also of an adapter that was merged into them.

    Example:
        >>> Protocol(prompt_template="{problem}", max_tokens=512).temperature
        1.0
    """

    prompt_template: str
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 2048
    stop: tuple[str, ...] = ()
    seed: int = 0
    seed_rule: str = "blake2b-philox-1"
    answer_format: AnswerFormat = "boxed"
    adapter: AdapterUse = "merged"

    def __post_init__(self) -> None:
        if "{problem}" not in self.prompt_template:
            raise RecordError(
                "the prompt template has no {problem}",
                why="without it every prompt would be the same",
                fix="Put {problem} where the question belongs",
            )
        if not 0.0 <= self.temperature < math.inf:
            raise RecordError(f"temperature is {self.temperature}", fix="Give 0 or more")
        if not 0.0 < self.top_p <= 1.0:
            raise RecordError(f"top-p is {self.top_p}", fix="Give a value in (0, 1]")
        if self.max_tokens < 1:
            raise RecordError(f"max tokens is {self.max_tokens}", fix="Give 1 or more")
        if self.answer_format not in ANSWER_FORMATS:
            raise RecordError(
                f"answer format is {self.answer_format!r}",
                fix=f"Known formats: {', '.join(ANSWER_FORMATS)}",
            )
        if self.adapter not in get_args(AdapterUse):
            raise RecordError(f"adapter is {self.adapter!r}", fix="Known uses: merged, unmerged")

    @property
    def digest(self) -> str:
        """Id of the protocol."""
        return digest(self.to_dict())

    @property
    def draws_digest(self) -> str:
        """Id of the settings that decide which samples are drawn: all but the answer format."""
        return dataclasses.replace(self, answer_format="boxed").digest

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as JSON values; default answer format and adapter are left out.

        Protocols that were made before these existed keep their digest in this way.
        """
        values = dataclasses.asdict(self)
        if self.answer_format == "boxed":
            del values["answer_format"]
        if self.adapter == "merged":
            del values["adapter"]
        return values


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an SFT run was made. Unknown keys are kept in `extra`.

    Args:
        base_model: name or path of the model that SFT began from.
        base_revision: its revision, if it came from a hub.
        sources: mixture weights of the data sources, non-negative, summing to 1; may be empty.
        n_unique: different training examples.
        epochs: passes over them.
        learning_rate: peak learning rate.
        schedule: name of the learning-rate schedule.
        batch_size: examples an optimizer step.
        loss_weighting: none, pear_sequence, pear_block, pear_token, iw or tail_filter.
        seed: of the SFT run.
        extra: all other settings, JSON values.

    Example:
        >>> Recipe.from_dict({"epochs": 3, "lora_rank": 16}).extra
        {'lora_rank': 16}
    """

    base_model: str | None = None
    base_revision: str | None = None
    sources: Mapping[str, float] = field(default_factory=dict)
    n_unique: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    batch_size: int | None = None
    loss_weighting: str | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", dict(self.sources))
        object.__setattr__(self, "extra", dict(self.extra))
        weights = list(self.sources.values())
        if any(not 0.0 <= weight <= 1.0 for weight in weights):
            raise RecordError(f"recipe sources {dict(self.sources)} have a weight outside [0, 1]")
        if weights and abs(sum(weights) - 1.0) > _WEIGHTS_TOLERANCE:
            raise RecordError(
                f"recipe sources sum to {sum(weights):.6g}",
                why="they are shares of the mixture",
                fix="Divide each weight by their sum",
            )
        for name in ("n_unique", "epochs", "learning_rate", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RecordError(f"recipe {name} is {value}", fix="Give a positive number")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values, without keys that have no value."""
        values = {key: getattr(self, key) for key in _RECIPE_KEYS}
        values = {key: value for key, value in values.items() if value is not None}
        values["sources"] = dict(self.sources)
        return {**{k: v for k, v in values.items() if v != {}}, **dict(self.extra)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return a recipe from JSON or TOML values; unknown keys go to `extra`.

        Raises:
            RecordError: if a known key has a value of the wrong type or range, or if another key
                has a value that JSON does not support.
        """
        fields = {key: values[key] for key in _RECIPE_KEYS if key in values}
        for key, value in fields.items():
            expected, noun = _RECIPE_TYPES.get(key, (str, "text"))
            if isinstance(value, bool) or not isinstance(value, expected):
                raise RecordError(f"recipe {key} is {value!r}", why=f"it is not a {noun}")
        for name, weight in fields.get("sources", {}).items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise RecordError(f"recipe sources.{name} is {weight!r}", why="it is not a number")
        extra = {key: value for key, value in values.items() if key not in _RECIPE_KEYS}
        try:
            canonical_json(extra).encode()
        except (TypeError, ValueError) as error:
            raise RecordError(
                "a recipe holds a value that JSON does not support",
                why=str(error),
                fix="Write dates as texts, and finite numbers",
            ) from error
        return cls(**fields, extra=extra)

    @property
    def digest(self) -> str:
        """Id of the recipe."""
        return digest(self.to_dict())


_RECIPE_KEYS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "extra")
_RECIPE_TYPES: dict[str, tuple[Any, str]] = {
    "sources": (dict, "table"),
    "n_unique": (int, "whole number"),
    "epochs": (int | float, "number"),
    "learning_rate": (int | float, "number"),
    "batch_size": (int, "whole number"),
    "seed": (int, "whole number"),
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that a recipe gave at one step, and their location.

    Args:
        uri: where the weights are: an absolute `file://` URI, or `hf://org/name@commit`.
        fingerprint: digest of the content (`registry.digest.fingerprint`); the checkpoint's id.
        kind: "base" before SFT, "sft", or "rl".
        name: for people.
        step: optimizer step at which it was saved.
        recipe: how it was made.
        parents: ids of the checkpoints it was made from.

    Example:
        >>> folder = Path("runs/sft/step-500")
        >>> id_ = fingerprint(folder)
        >>> checkpoint = Checkpoint(uri=folder.resolve().as_uri(), fingerprint=id_, name="a")
    """

    uri: str
    fingerprint: str
    name: str
    kind: CheckpointKind = "sft"
    step: int | None = None
    recipe: Recipe | None = None
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(CheckpointKind):
            raise RecordError(f"checkpoint kind is {self.kind!r}", fix="Known kinds: base, sft, rl")
        check_id("fingerprint", self.fingerprint)
        if self.fingerprint in self.parents:
            raise RecordError(f"checkpoint {self.fingerprint[:12]} is its own parent")
        if self.step is not None and self.step < 0:
            raise RecordError(f"checkpoint step is {self.step}", fix="Give 0 or more")

    @property
    def id(self) -> str:
        """The fingerprint: the same weights are the same checkpoint in every folder."""
        return self.fingerprint


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A number measured on a checkpoint before RL.

    Args:
        name: the MLflow key, for example `pass_at_64` or `heldout_nll`.
        value: finite. A proxy that is undefined is not recorded.
        se: standard error over problems (or examples): how far the value would move with new
            problems of the same kind. None if it is not defined (one problem).
        se_within: standard error from the finite number of samples on these very problems.
        unit: for example "probability", "nats/token", "tokens".
        benchmark: name of the benchmark, held-out set or suite it was measured on.
        benchmark_digest: of that benchmark's content.
        protocol_digest: of the protocol that drew the samples; of losses, the number format and
            device that they were computed in, None for float32 on a CPU.
        n_problems: problems (or examples) that the value averages over.
        n_samples: samples (or response tokens) that it was computed from.
        evaluator_version: increases when the value of this proxy may change.

    Example:
        >>> proxy = Proxy(name="pass_at_1", value=0.5, se=0.02, unit="probability",
        ...     benchmark="gsm8k", benchmark_digest=benchmark.digest, n_problems=200,
        ...     n_samples=800, evaluator_version="1")
    """

    name: str
    value: float
    se: float | None
    unit: str
    benchmark: str
    benchmark_digest: str
    n_problems: int
    n_samples: int
    evaluator_version: str
    se_within: float | None = None
    protocol_digest: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise RecordError(
                f"proxy {self.name} on {self.benchmark} is {self.value}",
                why="an undefined proxy is left out, never recorded as a number",
            )
        for kind, se in (("se", self.se), ("se_within", self.se_within)):
            if se is not None and not 0.0 <= se < math.inf:
                raise RecordError(f"{kind} of proxy {self.name} on {self.benchmark} is {se}")
        check_id("benchmark digest", self.benchmark_digest)

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """What two measurements of the same quantity share."""
        return (self.name, self.benchmark, self.benchmark_digest, self.protocol_digest)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All proxies of one checkpoint from one call, with their configuration.

    Args:
        checkpoint: what was measured.
        proxies: the numbers; unique in (name, benchmark, benchmark digest, protocol digest).
        config: the resolved configuration and versions, JSON values; informative, not part of
            the id.
        references: names and URIs of files that stay on disk (the samples).

    Example:
        >>> store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=(proxy,))).is_new
        True
    """

    checkpoint: Checkpoint
    proxies: tuple[Proxy, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = [proxy.key for proxy in self.proxies]
        twice = {key[:2] for key in keys if keys.count(key) > 1}
        if twice:
            raise RecordError(f"an evaluation holds {sorted(twice)} more than once")

    @cached_property
    def id(self) -> str:
        """Digest of the checkpoint and of every proxy: the same numbers, the same evaluation."""
        proxies = sorted(digest(dataclasses.asdict(proxy)) for proxy in self.proxies)
        return digest([self.checkpoint.id, proxies])


def check_id(what: str, value: str) -> None:
    """Raise a RecordError unless the value has the form of an id of `registry.digest`."""
    if len(value) != DIGEST_LENGTH or not set(value) <= set("0123456789abcdef"):
        raise RecordError(f"{what} {value!r} is not a digest of {DIGEST_LENGTH} hex digits")


def k_of(proxy_name: str) -> int | None:
    """Return the k of a proxy `pass_at_<k>`; None for any other name."""
    match = _PASS_AT_K.fullmatch(proxy_name)
    return int(match[1]) if match else None


def counts_by_verdict(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return the number of samples by verdict, all four included."""
    return {verdict.value: sum(v is verdict for v in verdicts) for verdict in Verdict}
