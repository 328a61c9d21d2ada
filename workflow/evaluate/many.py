"""Several checkpoints in one call: all are checked first, then measured independently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlready.evaluators.checkpoints.folder import Weights
from rlready.evaluators.memory import give_back_memory
from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.store import Store
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engines import Shared
from rlready.workflow.evaluate.evaluator import Evaluator, evaluate_checkpoint, prepare
from rlready.workflow.evaluate.inputs import read_inputs
from rlready.workflow.evaluate.jobs import FailedEvaluation, in_children, shared_engine
from rlready.workflow.evaluate.report import Report
from rlready.workflow.progress import Clock


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of all checkpoints.

    Args:
        evaluations: reports of the measured checkpoints, as `Report.to_dict` returns them, in the
            order of the call.
        failed: the checkpoints that were not measured.
    """

    evaluations: tuple[dict[str, Any], ...]
    failed: tuple[FailedEvaluation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the contract of `rlready evaluate --json` for several checkpoints."""
        failed = [dataclasses.asdict(failure) for failure in self.failed]
        return {"evaluations": list(self.evaluations), "failed": failed}


def evaluate_many(
    configs: Sequence[EvaluateConfig], store: Store, clock: Clock, n_jobs: int = 1
) -> Results:
    """Measure several checkpoints and store their proxies.

    All checkpoints are checked before the first one is measured. A checkpoint that fails is
    reported at once and in the result; the others continue.

    Args:
        configs: one per checkpoint, with the same engine and device.
        store: the registry; each child process opens it again.
        clock: shows progress.
        n_jobs: number of checkpoints that are measured at the same time.

    Raises:
        ConfigError: if there are too few devices for `n_jobs`.
    """
    failed: dict[int, FailedEvaluation] = {}
    ready = dict(_checked(configs, store, clock, failed))
    if not ready:
        return Results(evaluations=(), failed=tuple(failed.values()))
    n_jobs = max(1, min(n_jobs, len(ready)))
    done: dict[int, dict[str, Any]] = {}
    with shared_engine(configs[0], n_jobs) as (environments, added):
        chosen = {
            i: dataclasses.replace(configs[i], engine_options=(*configs[i].engine_options, *added))
            for i in ready
        }
        if n_jobs == 1:
            results = _one_by_one(chosen, ready, store, clock)
        else:
            results = in_children(chosen, environments)
        for i, result in results:
            count = f"[{len(done) + len(failed) + 1}/{len(configs)}]"
            if isinstance(result, FailedEvaluation):
                failed[i] = result
                clock.warn(f"{count} {result.checkpoint}: {result.error}")
            else:
                done[i] = result
                clock.say(f"{count} {result['name']} is measured")
    return Results(
        evaluations=tuple(done[i] for i in sorted(done)),
        failed=tuple(failed[i] for i in sorted(failed)),
    )


def _checked(
    configs: Sequence[EvaluateConfig],
    store: Store,
    clock: Clock,
    failed: dict[int, FailedEvaluation],
) -> Iterator[tuple[int, Weights]]:
    """Yield the indices and weights of valid checkpoints; the others are added to `failed`."""
    seen: dict[str, str] = {}
    for i, config in enumerate(configs):
        clock.say(f"Checking {config.checkpoint}")
        try:
            inputs = read_inputs(config, store, clock)
            checkpoint = inputs.checkpoint
            if checkpoint.id in seen:
                raise ConfigError(
                    f"{config.checkpoint} holds the same weights as {seen[checkpoint.id]}",
                    fix="Name one of them",
                )
        except RlreadyError as error:
            failed[i] = FailedEvaluation(checkpoint=config.checkpoint, error=str(error))
            clock.warn(f"{config.checkpoint}: {error}")
            continue
        seen[checkpoint.id] = config.checkpoint
        yield i, inputs.weights


def _one_by_one(
    configs: Mapping[int, EvaluateConfig],
    weights: Mapping[int, Weights],
    store: Store,
    clock: Clock,
) -> Iterator[tuple[int, dict[str, Any] | FailedEvaluation]]:
    """Yield each result with its index; adapters of one base model come one after the other."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i in configs:
        is_adapter = weights[i].adapter is not None
        groups.setdefault((weights[i].path,) if is_adapter else (i,), []).append(i)
    models = Shared()
    for members in groups.values():
        adapters = [each for i in members if (each := weights[i].adapter) is not None]
        if len(adapters) > 1 and configs[members[0]].engine == "vllm":
            models.release()
            group = {i: configs[i] for i in members}
            yield from _with_one_engine(group, store, clock, Shared(adapters))
            continue
        for i in members:
            # A new clock each time, because stages are timed per checkpoint.
            arguments = configs[i], store, Clock(clock.console), models
            yield i, _result(configs[i], partial(evaluate_checkpoint, *arguments))
            give_back_memory()
    models.close()


def _with_one_engine(
    configs: Mapping[int, EvaluateConfig], store: Store, clock: Clock, shared: Shared
) -> Iterator[tuple[int, dict[str, Any] | FailedEvaluation]]:
    """Draw the samples of all adapters with one engine, and then finish one after the other."""
    drawn: dict[int, Evaluator] = {}
    try:
        for i, config in configs.items():
            try:
                evaluator = prepare(config, store, Clock(clock.console), shared)
                evaluator.draw(store)
            except Exception as error:  # one broken adapter must not end a long run
                yield i, FailedEvaluation.of(config.checkpoint, error)
            else:
                drawn[i] = evaluator
    finally:
        shared.close()
    for i, evaluator in drawn.items():
        yield i, _result(configs[i], partial(evaluator.finish, store))
    shared.close()


def _result(
    config: EvaluateConfig, evaluate: Callable[[], Report]
) -> dict[str, Any] | FailedEvaluation:
    try:
        return evaluate().to_dict()
    except Exception as error:  # one broken model must not end a long run
        return FailedEvaluation.of(config.checkpoint, error)
