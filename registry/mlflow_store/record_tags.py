"""Records as tags and metrics of MLflow: tags are read back, metrics are for people and searches.

A LoggedModel carries (`...` stands for 32 hexadecimal digits):

    rlready.key             the fingerprint, by which a checkpoint is found
    rlready.checkpoint      the `Checkpoint` as JSON, the only copy that is read back
    rlready.evaluation...   an `Evaluation`'s proxies as JSON, set in one transaction once metrics,
                            artifacts and links are written: with the tag a reader sees all of it
    rlready.outcome...      an `Outcome` as JSON, set in the same way (`put_outcome`)
    rlready.tag             what the last ranking says about it (`ReadinessTag`)
    rl_ready, rlready.place, .predicted, .interval, .alias    the same, for people
    rlready.name, .kind, .step, .uri, .parent, .recipe.<field>    the same facts, for people

and the metrics `<name>`, `<name>_se`, `<name>_se_within` and `<name>_n` (problems) of every proxy.
MLflow identifies a metric by name, time and run only, and stores no unit, version or protocol.
Therefore the tag is read back; one tag instead of 160 metric rows also makes reading fast.

A metric's dataset is the benchmark's name; its digest is the benchmark's, or, where a protocol drew
samples, `<first 16 digits of the benchmark's>-<first 16 of the protocol's>`: MLflow allows 36
characters, both halves can be recognised, and two protocols on one benchmark stand in two columns.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from rlready.registry.errors import RecordError, StoreError
from rlready.registry.outcomes import Outcome
from rlready.registry.readiness_tag import ReadinessTag, number_text, utc_text
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe
from rlready.registry.store import StoredCheckpoint, newest

KEY = "rlready.key"
CHECKPOINT = "rlready.checkpoint"
EVALUATION = "rlready.evaluation"
"""On a run: the id of its evaluation. On a model, followed by `.<id>`: the evaluation itself."""

OUTCOME = "rlready.outcome"
"""On a run: the id of its outcome. On a model, followed by `.<id>`: the outcome itself."""

RL_READY = "rl_ready"
"""On a version, and on a model that was ranked: true, false or undecided."""

TAG = "rlready.tag"
"""On the same: the `ReadinessTag` as JSON, the only copy that is read back."""

RANKED_ALIAS = "rlready.alias"
"""On a model: address of the alias that it has."""

FORMAT = 1
"""Version of the JSON in the tags."""

_TAG_CHARACTERS = 15_000  # MySQL keeps 65,535 bytes in a tag; longer JSON goes on in `.1`, `.2`
_DIGEST_HALF = 16
_NAME_CHARACTERS = 200  # of the 250 that MLflow allows in a key, so that a suffix fits
_SHOWN_CHARACTERS = 500
MODEL_TYPES = {"base": "base-model", "sft": "sft-checkpoint", "rl": "rl-checkpoint"}
"""MLflow's model type of each kind of checkpoint."""


@dataclass(kw_only=True)
class ModelRow:
    """A LoggedModel of rlready whose tags were not parsed yet."""

    model_id: str
    is_ready: bool
    model_type: str
    created_ms: int
    updated_ms: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Published:
    """An evaluation in a model's tags.

    `at_ms` is the time of the put, which grows from one evaluation of a model to the next. The
    metrics take one millisecond per dataset from there on.
    """

    id: str
    at_ms: int
    run_id: str
    n_datasets: int
    proxies: tuple[Proxy, ...]


@dataclass(frozen=True, kw_only=True)
class PublishedOutcome:
    """An outcome in a model's tags, with its time as in `Published`."""

    outcome: Outcome
    id: str
    at_ms: int
    run_id: str


@dataclass(frozen=True, kw_only=True)
class DatasetMetrics:
    """The metrics of one benchmark under one protocol, by key; a digest has 36 characters at most.

    MLflow calls the benchmark a dataset.
    """

    name: str
    digest: str
    values: Mapping[str, float]


def model_name(checkpoint: Checkpoint) -> str:
    """Return a LoggedModel's name; MLflow refuses `/ : . % " '`, so Qwen2.5 becomes Qwen2-5."""
    return printable(re.sub(r"[/:.%\"']", "-", checkpoint.name))[:_NAME_CHARACTERS] or "checkpoint"


def checkpoint_tags(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the tags of a checkpoint: the record, and facts for people."""
    recipe = {} if checkpoint.recipe is None else checkpoint.recipe.to_dict()
    facts: dict[str, object] = {
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "uri": checkpoint.uri,
        "step": checkpoint.step,
        "parent": ",".join(checkpoint.parents) or None,
        **{f"recipe.{safe_key(key)}": value for key, value in recipe.items()},
    }
    tags = {f"rlready.{key}": printable(value) for key, value in facts.items() if value is not None}
    record = {"format": FORMAT, **asdict(checkpoint)}
    return {
        **tags,
        KEY: checkpoint.id,
        CHECKPOINT: tag_json(record, f"checkpoint {checkpoint.name}"),
    }


def read_checkpoint(tags: Mapping[str, str]) -> Checkpoint:
    """Return the checkpoint in a model's tags; raises as `read_tag_json`."""
    values = read_tag_json(tags[CHECKPOINT], CHECKPOINT)
    recipe = values.pop("recipe")
    parents = tuple(values.pop("parents"))
    return Checkpoint(**values, parents=parents, recipe=Recipe(**recipe) if recipe else None)


def stored_checkpoints(rows: Sequence[ModelRow]) -> list[StoredCheckpoint]:
    """Return READY models as checkpoints, the oldest first. Models of one key are one checkpoint.

    Writers without a common lock can leave several models of a key. The records of the younger
    ones are just as valid.
    """
    by_id: dict[str, tuple[Checkpoint, list[ModelRow]]] = {}
    for row in rows:
        checkpoint = read_checkpoint(row.tags)
        by_id.setdefault(checkpoint.id, (checkpoint, []))[1].append(row)
    return [_stored(checkpoint, models) for checkpoint, models in by_id.values()]


def _stored(checkpoint: Checkpoint, rows: Sequence[ModelRow]) -> StoredCheckpoint:
    evaluations = [evaluation for row in rows for evaluation in read_evaluations(row.tags)]
    outcomes = {outcome.id: outcome for row in rows for outcome in read_outcomes(row.tags)}
    proxies: tuple[Proxy, ...] = ()
    for evaluation in sorted(evaluations, key=lambda each: (each.at_ms, each.id)):
        # A single evaluation needs no comparison of its proxies' keys, which takes time.
        proxies = newest(proxies, evaluation.proxies) if proxies else evaluation.proxies
    ordered = sorted(outcomes.values(), key=lambda each: (each.at_ms, each.id))
    return StoredCheckpoint(
        checkpoint=checkpoint,
        model_id=rows[0].model_id,
        proxies=proxies,
        updated_ms=max(row.updated_ms for row in rows),
        outcomes=tuple(published.outcome for published in ordered),
    )


def evaluation_tags(evaluation: Evaluation, at_ms: int, run_id: str) -> dict[str, str]:
    """Return the tags that publish an evaluation on its model: ASCII JSON, split if too long."""
    datasets = _datasets(evaluation)
    record = {
        "format": FORMAT,
        "at_ms": at_ms,
        "run": run_id,
        "datasets": datasets,
        "proxies": [[*_row(p), datasets.index(_dataset(p))] for p in evaluation.proxies],
    }
    text = tag_json(record, f"evaluation {evaluation.id}")
    return split_tags(f"{EVALUATION}.{evaluation.id}", text)


def read_evaluations(tags: Mapping[str, str]) -> list[Published]:
    """Return the evaluations in a model's tags; raises as `read_tag_json`."""
    evaluations = []
    for id_, text in join_tags(EVALUATION, tags):
        values = read_tag_json(text, f"{EVALUATION}.{id_}")
        datasets = values["datasets"]
        evaluations.append(
            Published(
                id=id_,
                at_ms=values["at_ms"],
                run_id=values["run"],
                n_datasets=len(datasets),
                proxies=tuple(_proxies(values["proxies"], datasets)),
            )
        )
    return evaluations


def read_outcomes(tags: Mapping[str, str]) -> list[PublishedOutcome]:
    """Return the outcomes in a model's tags; raises as `read_tag_json`."""
    outcomes = []
    for id_, text in join_tags(OUTCOME, tags):
        values = read_tag_json(text, f"{OUTCOME}.{id_}")
        at_ms, run_id = values.pop("at_ms"), values.pop("run")
        outcomes.append(
            PublishedOutcome(outcome=Outcome(**values), id=id_, at_ms=at_ms, run_id=run_id)
        )
    return outcomes


def outcome_tags(outcome: Outcome, at_ms: int, run_id: str) -> dict[str, str]:
    """Return the tags that publish an outcome on the model that RL began from."""
    record = {"format": FORMAT, "at_ms": at_ms, "run": run_id, **asdict(outcome)}
    text = tag_json(record, f"outcome {outcome.id}")
    return split_tags(f"{OUTCOME}.{outcome.id}", text)


def outcome_metrics(outcome: Outcome) -> DatasetMetrics:
    """Return the metrics of an outcome. A missing error has no metric."""
    key = safe_key(f"outcome/{outcome.statistic}/{outcome.budget_text}")
    values = {key: outcome.value}
    if outcome.se is not None:
        values[f"{key}_se"] = outcome.se
    name = printable(outcome.benchmark)
    return DatasetMetrics(name=name, digest=outcome.rl_digest, values=values)


def version_tags(tag: ReadinessTag, checkpoint: Checkpoint) -> dict[str, str]:
    """Return a readiness tag as tags of a version, the short ones first, as MLflow lists them."""
    return {
        **_decision(tag),
        "rlready.checkpoint": printable(checkpoint.name),
        "rlready.predictor": f"{tag.predictor}/{tag.predictor_version}",
        TAG: _tag_text(tag),
    }


def ranked_tags(tag: ReadinessTag, alias: str) -> dict[str, str]:
    """Return a readiness tag as tags of a checkpoint's model; alias: address of its alias."""
    by = f"{tag.predictor}/{tag.predictor_version}"
    facts = {"rlready.place": printable(tag.place), "rlready.ranked_by": by, RANKED_ALIAS: alias}
    return {**_decision(tag), **facts, TAG: _tag_text(tag)}


def _decision(tag: ReadinessTag) -> dict[str, str]:
    return {
        RL_READY: tag.readiness.value,
        "rlready.predicted": number_text(tag.predicted),
        "rlready.interval": tag.interval,
    }


def _tag_text(tag: ReadinessTag) -> str:
    record = {**asdict(tag), "made_at": utc_text(tag.made_at)}
    return tag_json({"format": FORMAT, **record}, f"tag of {tag.checkpoint_id}")


def read_tag(tags: Mapping[str, str]) -> ReadinessTag | None:
    """Return the readiness tag of a version or model, if any. Raises as `read_tag_json`."""
    if TAG not in tags:
        return None
    values = read_tag_json(tags[TAG], TAG)
    try:
        made_at = datetime.fromisoformat(values.pop("made_at"))
        reasons = tuple(values.pop("reasons"))
        return ReadinessTag(**values, reasons=reasons, made_at=made_at)
    except (TypeError, ValueError, KeyError, RecordError) as error:
        raise StoreError(
            f"tag {TAG} holds {tags[TAG][:60]!r}",
            why=f"it was edited: {error}",
            fix="Tag the checkpoints again: rlready tag",
        ) from error


def split_tags(key: str, text: str) -> dict[str, str]:
    """Return tags that hold a text of any length: `key`, and for long texts `key.1`, `key.2`..."""
    starts = range(0, len(text), _TAG_CHARACTERS)
    return {
        key if part == 0 else f"{key}.{part}": text[start : start + _TAG_CHARACTERS]
        for part, start in enumerate(starts)
    }


def join_tags(prefix: str, tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return ids and texts that `split_tags` put under keys `<prefix>.<id>`."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for key, text in tags.items():
        if key.startswith(prefix + "."):
            id_, _, part = key[len(prefix) + 1 :].partition(".")
            parts.setdefault(id_, []).append((int(part or 0), text))
    return [(id_, "".join(text for _, text in sorted(numbered))) for id_, numbered in parts.items()]


def metrics_by_dataset(evaluation: Evaluation) -> list[DatasetMetrics]:
    """Return the metrics of an evaluation by dataset. A missing error has no metric.

    An error whose key is another proxy's name is only stored in the tag.
    """
    datasets = []
    for dataset in _datasets(evaluation):
        proxies = [proxy for proxy in evaluation.proxies if _dataset(proxy) == dataset]
        keys = safe_keys(proxy.name for proxy in proxies)
        values: dict[str, float] = {}
        details: dict[str, float | None] = {}
        for proxy in proxies:
            key = keys[proxy.name]
            values[key] = float(proxy.value)
            details[f"{key}_se"] = proxy.se
            details[f"{key}_se_within"] = proxy.se_within
            details[f"{key}_n"] = float(proxy.n_problems)
        errors = {k: float(x) for k, x in details.items() if x is not None and k not in values}
        name = printable(dataset[0]) or "unnamed"
        datasets.append(DatasetMetrics(name=name, digest=_digest(dataset), values=values | errors))
    return datasets


def safe_key(name: str) -> str:
    """Return a name that MLflow accepts as a key: ASCII, no `@` or `=`, a normalized path."""
    key = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)[:_NAME_CHARACTERS]
    if posixpath.normpath(key) != key or key.startswith(("/", ".")):
        key = re.sub(r"[./]", "_", key)
    return key or "_"


def safe_keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key by name; names that MLflow would not distinguish get a suffix."""
    keys: dict[str, str] = {}
    for name in names:
        key = safe_key(name)
        while key in keys.values():
            key += "_2"
        keys[name] = key
    return keys


def printable(value: object) -> str:
    """Return a value as one printable line of limited length."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN_CHARACTERS])


def _row(proxy: Proxy) -> list[Any]:
    errors = [None if se is None else float(se) for se in (proxy.se, proxy.se_within)]
    counts = [int(proxy.n_problems), int(proxy.n_samples)]
    return [proxy.name, float(proxy.value), *errors, proxy.unit, *counts, proxy.evaluator_version]


def _dataset(proxy: Proxy) -> tuple[str, str, str | None]:
    return (proxy.benchmark, proxy.benchmark_digest, proxy.protocol_digest)


def _datasets(evaluation: Evaluation) -> list[tuple[str, str, str | None]]:
    return list(dict.fromkeys(_dataset(proxy) for proxy in evaluation.proxies))


def _digest(dataset: tuple[str, str, str | None]) -> str:
    _, benchmark, protocol = dataset
    if protocol is None:
        return benchmark
    return f"{benchmark[:_DIGEST_HALF]}-{printable(protocol)[:_DIGEST_HALF]}"


def _proxies(rows: list[list[Any]], datasets: list[list[Any]]) -> Iterator[Proxy]:
    for name, value, se, se_within, unit, n_problems, n_samples, version, index in rows:
        benchmark, benchmark_digest, protocol_digest = datasets[index]
        yield Proxy(
            name=name,
            value=value,
            se=se,
            se_within=se_within,
            unit=unit,
            benchmark=benchmark,
            benchmark_digest=benchmark_digest,
            protocol_digest=protocol_digest,
            n_problems=n_problems,
            n_samples=n_samples,
            evaluator_version=version,
        )


def tag_json(record: Mapping[str, object], what: str) -> str:
    """Return the JSON text of a record; raise a StoreError if JSON cannot represent it."""
    try:
        # ASCII, because databases differ in what text they keep.
        return json.dumps(record, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{what} cannot be written as JSON", why=str(error)) from error


def read_tag_json(text: str, tag: str) -> dict[str, Any]:
    """Return the record in a tag.

    Raises:
        StoreError: if it was edited, or another program or a later version of rlready wrote it.
    """
    try:
        values = json.loads(text)
        version = values.pop("format")
    except (ValueError, RecursionError, KeyError, AttributeError) as error:
        raise StoreError(
            f"tag {tag} holds {text[:60]!r}",
            why="rlready did not write it, or it was edited",
            fix="Delete the tag, and evaluate the checkpoint again",
        ) from error
    if version != FORMAT:
        raise StoreError(
            f"tag {tag} has format {version}",
            why=f"this rlready reads format {FORMAT}",
            fix="Use the version of rlready that wrote it, or a newer one",
        )
    return dict(values)
