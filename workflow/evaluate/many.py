"""Several checkpoints in one call: all are checked first, then measured, and each stands alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.store import Store
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.inputs import make_plan
from rlready.workflow.evaluate.jobs import Failure, failure_of, in_children, shared_engine
from rlready.workflow.progress import Clock


@dataclass(frozen=True, kw_only=True)
class Results:
    """What became of every checkpoint.

    Args:
        evaluations: as `steps.Report.to_dict` gives them, in the order asked for.
        failed: the others.
    """

    evaluations: tuple[dict[str, Any], ...]
    failed: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contract of `rlready evaluate --json` for several checkpoints."""
        failed = [dataclasses.asdict(failure) for failure in self.failed]
        return {"evaluations": list(self.evaluations), "failed": failed}


def evaluate_many(
    configs: Sequence[EvaluateConfig], store: Store, clock: Clock, n_jobs: int = 1
) -> Results:
    """The proxies of several checkpoints, measured and stored.

    Every checkpoint is checked before the first is measured. One that fails is told at once, and
    in the result; the others go on.

    Args:
        configs: one a checkpoint, alike in engine and device.
        store: the registry; a child process opens its own.
        clock: told of progress.
        n_jobs: how many are measured at a time.

    Raises:
        ConfigError: if there are not the devices for so many at a time.
    """
    failed: dict[int, Failure] = {}
    ready = list(_checked(configs, store, clock, failed))
    if not ready:
        return Results(evaluations=(), failed=tuple(failed.values()))
    n_jobs = max(1, min(n_jobs, len(ready)))
    done: dict[int, dict[str, Any]] = {}
    with shared_engine(configs[0], n_jobs) as shared:
        chosen = {i: shared.configure(configs[i]) for i in ready}
        if n_jobs == 1:
            outcomes = _one_by_one(chosen, store, clock)
        else:
            outcomes = in_children(chosen, shared.environments)
        for i, outcome in outcomes:
            count = f"[{len(done) + len(failed) + 1}/{len(configs)}]"
            if isinstance(outcome, Failure):
                failed[i] = outcome
                clock.warn(f"{count} {outcome.checkpoint}: {outcome.error}")
            else:
                done[i] = outcome
                clock.say(f"{count} {outcome['name']} is measured")
    return Results(
        evaluations=tuple(done[i] for i in sorted(done)),
        failed=tuple(failed[i] for i in sorted(failed)),
    )


def _checked(
    configs: Sequence[EvaluateConfig], store: Store, clock: Clock, failed: dict[int, Failure]
) -> Iterator[int]:
    """The checkpoints that can be measured; the others are put into `failed`."""
    seen: dict[str, str] = {}
    for i, config in enumerate(configs):
        clock.say(f"Checking {config.checkpoint}")
        try:
            checkpoint = make_plan(config, store, clock).checkpoint
            if checkpoint.id in seen:
                raise ConfigError(
                    f"{config.checkpoint} holds the same weights as {seen[checkpoint.id]}",
                    fix="Name one of them",
                )
        except RlreadyError as error:
            failed[i] = Failure(checkpoint=config.checkpoint, error=str(error))
            clock.warn(f"{config.checkpoint}: {error}")
            continue
        seen[checkpoint.id] = config.checkpoint
        yield i


def _one_by_one(
    configs: Mapping[int, EvaluateConfig], store: Store, clock: Clock
) -> Iterator[tuple[int, dict[str, Any] | Failure]]:
    from rlready.evaluators.memory import give_back_memory
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint

    for i, config in configs.items():
        try:
            # Stages are timed for each checkpoint alone.
            report = evaluate_checkpoint(config, store, Clock(clock.console))
        except Exception as error:  # a night's work must not end because one model breaks a kernel
            yield i, failure_of(config.checkpoint, error)
        else:
            yield i, report.to_dict()
        give_back_memory()
