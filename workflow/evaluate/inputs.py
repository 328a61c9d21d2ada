"""The inputs of an evaluation, read and checked before any expensive work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlready.evaluators.benchmarks import problems as benchmarks
from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.benchmarks.prompts import DEFAULT_TEMPLATE, load_template
from rlready.evaluators.checkpoints.adapter import check_contents
from rlready.evaluators.checkpoints.folder import (
    LARGE_BYTES,
    Weights,
    check_weights,
    load_tokenizer,
    open_weights,
    pick_device,
)
from rlready.evaluators.checkpoints.trainer_state import trainer_step
from rlready.evaluators.checkpoints.weight_files import check_finite
from rlready.evaluators.heldout.examples import (
    HeldoutForm,
    HeldoutSet,
    load_heldout,
    parse_heldout_option,
)
from rlready.evaluators.metrics import weight_drift
from rlready.evaluators.verification.verifier import Verifier, checker_version, list_golds
from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import BenchmarkError, CheckpointError, ConfigError, StoreError
from rlready.registry.records import Checkpoint, CheckpointKind, Protocol
from rlready.registry.store import Store
from rlready.workflow.evaluate.config import EvaluateConfig, load_recipe
from rlready.workflow.evaluate.engines import check_adapter_engine
from rlready.workflow.progress import Clock

Problems = TypeVar("Problems", Benchmark, HeldoutSet)


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Everything that an evaluation needs before it draws samples.

    Args:
        config: what the user asked for.
        weights: the checked folder of weights.
        checkpoint: the record of the checkpoint.
        protocol: how samples are drawn.
        benchmarks: the problems that are sampled.
        suite_name: name of the mean over the benchmarks.
        heldout_sets: the examples whose losses are computed.
        base: inputs of the base model, which is evaluated first.
        base_record: record of the base model, also of an adapter's that is not evaluated.
    """

    config: EvaluateConfig
    weights: Weights
    checkpoint: Checkpoint
    protocol: Protocol
    benchmarks: tuple[Benchmark, ...]
    suite_name: str
    heldout_sets: tuple[HeldoutSet, ...]
    base: EvaluationInputs | None = None
    base_record: Checkpoint | None = None

    def protocol_of(self, benchmark: Benchmark) -> Protocol:
        """Return the protocol, with the benchmark's own answer format if it has one."""
        answer_format = benchmark.answer_format or self.protocol.answer_format
        return dataclasses.replace(self.protocol, answer_format=answer_format)

    def resolved_config(self, engine_used: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration with everything that was resolved, for the record."""
        formats = {b.name: b.answer_format for b in self.benchmarks if b.answer_format}
        adapter = {}
        if self.weights.base is not None:
            adapter = {"adapter": {"base": self.weights.base.uri, "use": self.protocol.adapter}}
        return {
            **self.config.to_dict(),
            **adapter,
            "protocol": self.protocol.to_dict(),
            **({"answer_formats": formats} if formats else {}),
            "checker": checker_version(),
            "engine_used": dict(engine_used),
        }


def read_inputs(
    config: EvaluateConfig,
    store: Store,
    clock: Clock,
    unknown_kind: CheckpointKind = "sft",
    *,
    prompts: Benchmark | None = None,
) -> EvaluationInputs:
    """Read and check the inputs of an evaluation.

    Args:
        config: what the user asked for.
        store: the registry.
        clock: shows slow steps.
        unknown_kind: kind of the checkpoint if neither the configuration nor the registry has it.
        prompts: replaces the benchmarks that the configuration names.

    Raises:
        RlreadyError: if an input is missing, unreadable or invalid.
    """
    weights = open_weights(config.checkpoint, config.base)
    if weights.adapter is not None:
        check_adapter_engine(config, weights.adapter)
    if config.base is not None:
        # Report a broken base model before the checkpoint is read.
        open_weights(config.base)
    # Read the files before torch is imported, so that an invalid one is reported within a second.
    suite_name, loaded = ("mean", (prompts,)) if prompts else _load_benchmarks(config)
    heldout_sets = tuple(read_heldout(config, option) for option in config.held_out)
    for heldout_set in heldout_sets:
        if n := heldout_set.n_weightless:
            rows = "1 row of weight 0 is" if n == 1 else f"{n} rows of weight 0 are"
            clock.warn(f"{heldout_set.name}: {rows} left out")
    check_names([b.name for b in loaded], [h.name for h in heldout_sets], suite_name)
    template = load_template(config.prompt_template) if config.prompt_template else DEFAULT_TEMPLATE
    protocol = Protocol(
        prompt_template=template,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        seed=config.seed,
        answer_format=config.answer_format,
        adapter="merged" if weights.adapter is None or config.merge else "unmerged",
    )
    weights = _checked(config, weights, clock)
    checkpoint = _checkpoint(config, weights, store, unknown_kind, clock)
    store.check(checkpoint)
    base = None
    if config.base is not None:
        # What only describes the checkpoint.
        unset: dict[str, Any] = dict.fromkeys(("base", "kind", "recipe", "step", "name"))
        base_config = dataclasses.replace(config, checkpoint=config.base, parents=(), **unset)
        if config.engine == "server":
            # The server only serves the checkpoint's weights.
            base_config = dataclasses.replace(base_config, engine="auto", engine_options=())
        base = read_inputs(base_config, store, clock, unknown_kind="base")
        if base.checkpoint.id == checkpoint.id:
            raise ConfigError(
                f"--base {config.base} has the weights of the checkpoint itself",
                fix="Name the model that SFT started from",
            )
        _check_base(weights, base.weights)
    record = None if base is None else base.checkpoint
    if record is None and weights.base is not None:
        record = _base_record(weights.base, store)
    return EvaluationInputs(
        config=config,
        weights=weights,
        checkpoint=checkpoint,
        protocol=protocol,
        benchmarks=loaded,
        suite_name=suite_name,
        heldout_sets=heldout_sets,
        base=base,
        base_record=record,
    )


def _check_base(checkpoint: Weights, base: Weights) -> None:
    """Check that two models can be compared tensor by tensor and token by token.

    The tensors of an adapter were compared with those of its base model when it was opened.

    Raises:
        CheckpointError: if the base model has another architecture, vocabulary or tokenizer.
    """
    if checkpoint.adapter is None:
        weight_drift.check_base(checkpoint.path, base.path, checkpoint.extra + base.extra)
    vocabulary, base_vocabulary = (
        load_tokenizer(weights.tokenizer_folder).get_vocab() for weights in (checkpoint, base)
    )
    different = sorted(t for t, i in vocabulary.items() if base_vocabulary.get(t, i) != i)
    if different:
        raise CheckpointError(
            f"the tokenizers of {checkpoint.folder} and {base.path} number {len(different)} tokens "
            "differently",
            why=f"for example {', '.join(map(repr, different[:3]))}; the base model would "
            "read the same text as other tokens",
            fix="Name the model that SFT started from, with the same tokenizer",
        )


def with_base_as_parent(inputs: EvaluationInputs, store: Store) -> EvaluationInputs:
    """Return the inputs with the base model as parent, if it is registered.

    A checkpoint that has a parent keeps it.
    """
    checkpoint, base = inputs.checkpoint, inputs.base_record
    if base is None or checkpoint.parents:
        return inputs
    registered = _registered(store, checkpoint.id)
    # The base model of an adapter is registered only if it was evaluated.
    if (registered is not None and registered.parents) or _registered(store, base.id) is None:
        return inputs
    child = dataclasses.replace(checkpoint, parents=(base.id,))
    store.check(child)
    return dataclasses.replace(inputs, checkpoint=child)


def _check_device(config: EvaluateConfig) -> None:
    """Check that torch is installed and has the device, if the weights run here.

    A server draws the samples elsewhere, but it gives no held-out loss.

    Raises:
        ConfigError: if the packages for running a model are not installed.
        CheckpointError: if the device does not exist.
    """
    if config.engine == "server" and not config.held_out and config.base is None:
        return
    try:
        pick_device(config.device)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"running a checkpoint needs {error.name}, which is not installed",
            fix="pip install 'rlready[local]'",
        ) from error


def _load_benchmarks(config: EvaluateConfig) -> tuple[str, tuple[Benchmark, ...]]:
    """Return the suite's name and benchmarks, with --benchmark added or replaced."""
    sources = [benchmarks.parse_benchmark_option(option) for option in config.benchmarks]
    if config.suite is not None:
        suite = benchmarks.override(benchmarks.load_suite(config.suite), sources)
        name, sources = suite.name, list(suite.sources)
    else:
        name = "mean"
    loaded = map(benchmarks.load_benchmark, sources)
    return name, tuple(_first(b, len(b.problems), config.limit) for b in loaded)


def read_heldout(config: EvaluateConfig, option: str) -> HeldoutSet:
    """Return the held-out set of one `--held-out`, with its first examples if there is a limit."""
    name, path = parse_heldout_option(option)
    form = HeldoutForm.of_options(config.response_marker, config.held_out_fields)
    heldout_set = load_heldout(path, name, form)
    return _first(heldout_set, len(heldout_set.examples), config.limit)


def _first(whole: Problems, size: int, limit: int | None) -> Problems:
    """Return the first `limit` problems or examples."""
    if limit is None or limit >= size:
        return whole
    # Another name, because a value on 100 problems is not comparable with the whole benchmark.
    return dataclasses.replace(whole.limit(limit), name=f"{whole.name}-first{limit}")


def check_names(names: Sequence[str], heldout: Sequence[str], suite_name: str) -> None:
    """Check that all names differ.

    Raises:
        ConfigError: if two names are equal; their values would be mixed up.
    """
    every = [*names, *heldout, *([suite_name] if len(names) > 1 else [])]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)} is the name of more than one benchmark, held-out set or suite",
            why="their values would be mixed up",
            fix="Give each a different name: --benchmark NAME=FILE, --held-out NAME=FILE",
        )


def _checked(config: EvaluateConfig, weights: Weights, clock: Clock) -> Weights:
    """Check that the weights are finite and fit the model that the folder describes."""
    size = sum(path.stat().st_size for path in weights.path.glob("*.safetensors"))
    if size > LARGE_BYTES:
        clock.say(f"Reading {size / 1e9:.1f} GB of weights for check and fingerprint (once)")
    # Check the files before torch is imported, which takes seconds.
    check_finite(weights.path, default_cache_dir())
    if weights.adapter is not None:
        check_contents(weights.adapter, default_cache_dir())
    if config.base is not None:
        check_finite(open_weights(config.base).path, default_cache_dir())
    _check_device(config)
    extra = check_weights(weights.path, weights.tokenizer_folder)
    if weights.base is not None and weights.tokenizer_folder != weights.path:
        _check_base(weights, weights.base)
    return dataclasses.replace(weights, extra=extra)


def _checkpoint(
    config: EvaluateConfig,
    weights: Weights,
    store: Store,
    unknown_kind: CheckpointKind,
    clock: Clock,
) -> Checkpoint:
    content = weights.fingerprint(default_cache_dir())
    registered = _registered(store, content)
    step = config.step
    if step is None and (registered is None or registered.step is None):
        step = trainer_step(weights.path)
    checkpoint = Checkpoint(
        uri=weights.uri,
        fingerprint=content,
        name=config.name or (registered.name if registered else weights.name),
        kind=config.kind or (registered.kind if registered else unknown_kind),
        step=step,
        recipe=load_recipe(config.recipe) if config.recipe else None,
        parents=tuple(store.find(parent).checkpoint.id for parent in config.parents),
    )
    recipe = checkpoint.recipe or (registered.recipe if registered else None)
    if checkpoint.kind == "sft" and config.base is None and not (recipe and recipe.base_model):
        clock.say(
            f"note: the base model of {checkpoint.name} is unknown, so it cannot be kept apart "
            'from checkpoints of other ones. Name it: base_model = "org/name" in --recipe FILE.toml'
        )
    return checkpoint


def _base_record(base: Weights, store: Store) -> Checkpoint:
    """Return the record of an adapter's base model, with its name in the registry."""
    content = base.fingerprint(default_cache_dir())
    registered = _registered(store, content)
    name = base.name if registered is None else registered.name
    return Checkpoint(uri=base.uri, fingerprint=content, name=name, kind="base")


def _registered(store: Store, checkpoint_id: str) -> Checkpoint | None:
    """Return the registered checkpoint with these weights, if there is one."""
    try:
        return store.find(checkpoint_id).checkpoint
    except StoreError:
        # Not registered. If the registry itself is missing, `Store.check` reports it.
        return None


def with_readable_golds(
    inputs: EvaluationInputs, verifier: Verifier, warn: Callable[[str], None]
) -> EvaluationInputs:
    """Return the inputs with reference answers that can all be checked.

    Without `--skip-unreadable-golds` the inputs stay the same. With it, a benchmark that loses an
    answer gets a name and a digest of its own.

    Args:
        inputs: the inputs of the evaluation.
        verifier: checks each reference answer against itself.
        warn: called with a note on each benchmark that loses problems.

    Raises:
        BenchmarkError: if a reference answer cannot be checked and may not be left out, or no
            problem of a benchmark would be left.
        ConfigError: if a benchmark would get the name of another.
    """
    readable = []
    for benchmark in inputs.benchmarks:
        unreadable = verifier.unreadable_golds(benchmark.problems)
        if unreadable and not inputs.config.skip_unreadable_golds:
            raise BenchmarkError(
                f"benchmark {benchmark.name}: {len(unreadable)} reference answers cannot be "
                f"checked: {list_golds(unreadable)}",
                why="they cannot be parsed, or do not equal themselves in a box",
                fix="Write them as LaTeX, or leave them out with --skip-unreadable-golds",
            )
        rest = benchmark.without_golds(set(unreadable)) if unreadable else benchmark
        n_problems, n_lost = len(benchmark.problems), len(benchmark.problems) - len(rest.problems)
        if unreadable:
            warn(
                f"{benchmark.name}: {len(unreadable)} reference answers cannot be checked and are "
                f"left out, and with them {n_lost} of {n_problems} problems: "
                f"{list_golds(unreadable)}. The results on the other problems are named {rest.name}"
            )
        readable.append(rest)
    heldout_names = [heldout_set.name for heldout_set in inputs.heldout_sets]
    check_names([benchmark.name for benchmark in readable], heldout_names, inputs.suite_name)
    return dataclasses.replace(inputs, benchmarks=tuple(readable))
