"""What an evaluation needs to know, read and checked before anything expensive begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rlready.evaluators.benchmarks import problems as benchmarks
from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.benchmarks.prompts import DEFAULT_TEMPLATE, load_template
from rlready.evaluators.checkpoints.folder import (
    LARGE_BYTES,
    Weights,
    check_weights,
    open_weights,
    pick_device,
)
from rlready.evaluators.checkpoints.weight_files import check_finite
from rlready.evaluators.heldout.examples import HeldoutSet, load_heldout, parse_heldout_option
from rlready.registry.digest import default_cache_dir, fingerprint
from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.records import Checkpoint, CheckpointKind, Protocol
from rlready.registry.store import Store
from rlready.workflow.evaluate.config import EvaluateConfig, load_recipe
from rlready.workflow.progress import Clock


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that an evaluation needs to know before it draws anything."""

    config: EvaluateConfig
    weights: Weights
    checkpoint: Checkpoint
    protocol: Protocol
    benchmarks: tuple[Benchmark, ...]
    suite_name: str
    heldout_sets: tuple[HeldoutSet, ...]
    base: Plan | None = None
    """Of the base model, which is evaluated first."""

    def protocol_of(self, benchmark: Benchmark) -> Protocol:
        """The protocol with the answer format of the benchmark, if it has one of its own."""
        own = benchmark.answer_format or self.protocol.answer_format
        return dataclasses.replace(self.protocol, answer_format=own)


def make_plan(
    config: EvaluateConfig, store: Store, clock: Clock, unknown_kind: CheckpointKind = "sft"
) -> Plan:
    """Everything read and checked, before any expensive work.

    Args:
        config: what was asked for.
        store: the registry.
        clock: told of what takes long.
        unknown_kind: of a checkpoint that neither the configuration nor the registry knows.

    Raises:
        RlreadyError: as `evaluate`.
    """
    weights = open_weights(config.checkpoint)
    if config.base is not None:
        # A broken one is told now, not when everything of the checkpoint was read.
        open_weights(config.base)
    # Before torch is imported: files that cannot be used are told in a second, in little memory.
    suite_name, loaded = _load_benchmarks(config)
    heldout_sets = tuple(_load_heldout(option, config.limit) for option in config.held_out)
    check_names([b.name for b in loaded], [h.name for h in heldout_sets], suite_name)
    template = load_template(config.prompt_template) if config.prompt_template else DEFAULT_TEMPLATE
    protocol = Protocol(
        prompt_template=template,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        seed=config.seed,
        answer_format=config.answer_format,
    )
    weights = _checked(config, weights, clock)
    checkpoint = _checkpoint(config, weights, store, unknown_kind)
    store.check(checkpoint)
    base = None
    if config.base is not None:
        base = make_plan(_base_config(config), store, clock, unknown_kind="base")
        _check_base(weights, checkpoint, base)
    return Plan(
        config=config,
        weights=weights,
        checkpoint=checkpoint,
        protocol=protocol,
        benchmarks=loaded,
        suite_name=suite_name,
        heldout_sets=heldout_sets,
        base=base,
    )


def with_base_as_parent(plan: Plan, store: Store) -> Plan:
    """The plan, with the base model as the checkpoint's parent if none is known.

    The base model has to be registered by now.
    """
    checkpoint = plan.checkpoint
    known = _known(store, checkpoint.id)
    if plan.base is None or checkpoint.parents or (known is not None and known.parents):
        return plan
    child = dataclasses.replace(checkpoint, parents=(plan.base.checkpoint.id,))
    store.check(child)
    return dataclasses.replace(plan, checkpoint=child)


def _base_config(config: EvaluateConfig) -> EvaluateConfig:
    """The base model on the same problems and held-out examples, by the same protocol."""
    assert config.base is not None
    # A server serves the checkpoint's weights, whatever is asked of it.
    is_served = config.engine == "server"
    return dataclasses.replace(
        config,
        checkpoint=config.base,
        base=None,
        kind=None,
        recipe=None,
        parents=(),
        step=None,
        name=None,
        engine="auto" if is_served else config.engine,
        engine_options=() if is_served else config.engine_options,
    )


def _check_base(weights: Weights, checkpoint: Checkpoint, base: Plan) -> None:
    from rlready.workflow.evaluate.against_base import check_base

    if base.checkpoint.id == checkpoint.id:
        raise ConfigError(
            f"--base {base.config.checkpoint} has the weights of the checkpoint itself",
            fix="Name the model that SFT began from",
        )
    check_base(weights, base.weights)


def _needs_device(config: EvaluateConfig) -> bool:
    """Whether the weights run here: a server draws elsewhere, but gives no held-out loss."""
    return config.engine != "server" or bool(config.held_out) or config.base is not None


def _check_device(device: str) -> None:
    """Return if torch is installed and has this device.

    Raises:
        ConfigError: if the packages for running a model are not installed.
        CheckpointError: if the device is not there.
    """
    try:
        pick_device(device)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"running a checkpoint needs {error.name}, which is not installed",
            fix="pip install 'rlready[local]'",
        ) from error


def _load_benchmarks(config: EvaluateConfig) -> tuple[str, tuple[Benchmark, ...]]:
    """The suite's name and its benchmarks, with those named alone added or put in place."""
    sources = [benchmarks.parse_benchmark_option(option) for option in config.benchmarks]
    if config.suite is not None:
        suite = benchmarks.override(benchmarks.load_suite(config.suite), sources)
        name, sources = suite.name, list(suite.sources)
    else:
        name = "mean"
    loaded = [benchmarks.load_benchmark(source) for source in sources]
    if config.limit is not None:
        loaded = [_first(benchmark, config.limit) for benchmark in loaded]
    return name, tuple(loaded)


def _first(benchmark: Benchmark, n: int) -> Benchmark:
    # Under a name of its own: a value on 100 problems must not be read as one on the benchmark.
    if n >= len(benchmark.problems):
        return benchmark
    return dataclasses.replace(benchmark.limit(n), name=f"{benchmark.name}-first{n}")


def _load_heldout(option: str, limit: int | None) -> HeldoutSet:
    name, path = parse_heldout_option(option)
    heldout_set = load_heldout(path, name)
    if limit is None or limit >= len(heldout_set.examples):
        return heldout_set
    return dataclasses.replace(heldout_set.limit(limit), name=f"{name}-first{limit}")


def check_names(names: Sequence[str], heldout: Sequence[str], suite_name: str) -> None:
    """Return if no two of the names are equal.

    Raises:
        ConfigError: if two are; their values would be mixed up.
    """
    every = [*names, *heldout, *([suite_name] if len(names) > 1 else [])]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)} is the name of more than one benchmark, held-out set or suite",
            why="their values would be mixed up",
            fix="Give each its own: --benchmark NAME=FILE, --held-out NAME=FILE",
        )


def _checked(config: EvaluateConfig, weights: Weights, clock: Clock) -> Weights:
    """The weights, once they are finite and those of the model that the folder describes."""
    size = sum(path.stat().st_size for path in weights.path.glob("*.safetensors"))
    if size > LARGE_BYTES:
        clock.say(f"Reading {size / 1e9:.1f} GB of weights for check and fingerprint (once)")
    # Without torch, whose import takes seconds.
    check_finite(weights.path, default_cache_dir())
    if config.base is not None:
        check_finite(open_weights(config.base).path, default_cache_dir())
    if _needs_device(config):
        _check_device(config.device)
    return dataclasses.replace(weights, extra=check_weights(weights.path))


def _checkpoint(
    config: EvaluateConfig, weights: Weights, store: Store, unknown_kind: CheckpointKind
) -> Checkpoint:
    content = fingerprint(weights.path, default_cache_dir())
    known = _known(store, content)
    return Checkpoint(
        uri=weights.uri,
        fingerprint=content,
        name=config.name or (known.name if known else weights.name),
        kind=config.kind or (known.kind if known else unknown_kind),
        step=config.step,
        recipe=load_recipe(config.recipe) if config.recipe else None,
        parents=tuple(store.find(parent).checkpoint.id for parent in config.parents),
    )


def _known(store: Store, checkpoint_id: str) -> Checkpoint | None:
    """What the registry says of these weights."""
    try:
        return store.find(checkpoint_id).checkpoint
    except StoreError:
        # Not there. If it is the registry that is not there, `check` will say so.
        return None
