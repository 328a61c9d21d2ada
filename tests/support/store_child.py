"""Writers that run beside the test's process: many at once, or killed at a chosen step.

Run as a script: `store_child.py URI EXPERIMENT race N`, `... race_outcome N` or `... kill STEP...`.
MLflow is imported once, and each writer is a fork of that process, made before any connection is
open.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe

GSM8K, AIME, PROTOCOL = "a1" * 16, "b2" * 16, "c3" * 16


def a_checkpoint(number: int = 1, **changes: Any) -> Checkpoint:
    """A checkpoint of its own for every number."""
    given: dict[str, Any] = {
        "uri": f"file:///weights/step-{number}",
        "fingerprint": f"{number:032x}"[::-1],
        "name": f"Qwen2.5-0.5B-step{number}",
        "step": number,
        "recipe": Recipe(base_model="Qwen2.5-0.5B", sources={"numina": 1.0}, learning_rate=1e-5),
    }
    return Checkpoint(**{**given, **changes})


def a_proxy(**changes: Any) -> Proxy:
    """A proxy with every field given."""
    given: dict[str, Any] = {
        "name": "pass_at_64",
        "value": 0.7,
        "se": 0.03,
        "se_within": 0.01,
        "unit": "probability",
        "benchmark": "gsm8k",
        "benchmark_digest": GSM8K,
        "protocol_digest": PROTOCOL,
        "n_problems": 200,
        "n_samples": 12_800,
        "evaluator_version": "1",
    }
    return Proxy(**{**given, **changes})


def an_evaluation(number: int = 1, *, value: float = 0.7, **changes: Any) -> Evaluation:
    """An evaluation with a sampled proxy, a loss without protocol, and one without an error."""
    proxies = (
        a_proxy(value=value),
        a_proxy(name="pass_at_1", value=value / 2, benchmark="aime24", benchmark_digest=AIME),
        a_proxy(name="heldout_nll", value=1.25, unit="nats/token", protocol_digest=None, se=None),
    )
    given: dict[str, Any] = {
        "checkpoint": a_checkpoint(number),
        "proxies": proxies,
        "config": {"samples": 64},
        "references": {"gsm8k": "file:///samples/gsm8k"},
    }
    return Evaluation(**{**given, **changes})


def an_outcome(number: int = 1, **changes: Any) -> Outcome:
    """What RL made of a checkpoint."""
    given: dict[str, Any] = {
        "checkpoint_id": a_checkpoint(number).id,
        "algorithm": "grpo",
        "rl_recipe": {"data": "dapo", "group_size": 8, "temperature": 1.0},
        "budget": 60,
        "budget_unit": "steps",
        "statistic": "value_at_budget",
        "benchmark": "gsm8k",
        "value": 0.6,
        "se": 0.02,
        "seed": 0,
    }
    return Outcome(**{**given, **changes})


def a_large_evaluation(number: int) -> Evaluation:
    """More metrics than MLflow takes in one transaction: 7 benchmarks x 40 proxies x 4 keys."""
    base = an_evaluation(number)
    proxies = tuple(
        a_proxy(
            name=f"metric_{j}", benchmark=f"bench{b}", benchmark_digest=f"{b:032x}", value=b + j
        )
        for b in range(7)
        for j in range(40)
    )
    return dataclasses.replace(base, proxies=proxies)


def victim(step: str) -> Evaluation:
    """What the writer puts that is killed at this step, such as `after log_batch 2`."""
    number = 1000 + sum(ord(letter) * place for place, letter in enumerate(step, 1))
    if "log_batch" in step:
        return a_large_evaluation(number)
    return an_evaluation(number)


def kill_at(step: str) -> None:
    """Have this process killed before or after the n-th call of a client's or store's method."""
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    when, method, nth = step.split()
    # Inside `log_batch` MLflow commits the run's rows first and the model's after them.
    owner = SqlAlchemyStore if method == "_log_model_metrics" else MlflowClient
    original: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(nth) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, deadly)


def put(uri: str, experiment: str, record: Evaluation | Outcome) -> None:
    """Put as another process would."""
    store = MlflowStore(uri, experiment)
    if isinstance(record, Outcome):
        store.put_outcome(record)
    else:
        store.put_evaluation(record)


def forked(work: Callable[[], None]) -> int:
    """Pid of a child that does this and ends, with status 1 if it raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def main(uri: str, experiment: str, mode: str, *words: str) -> int:
    """Exit status 0 if all writers finished (race), or all were killed (kill)."""
    import mlflow
    import mlflow.models  # once, for all forks

    mlflow.MlflowClient  # noqa: B018  # the import is lazy
    if mode.startswith("race"):
        one = an_evaluation(7) if mode == "race" else an_outcome(7)
        pids = [forked(lambda: put(uri, experiment, one)) for _ in range(int(words[0]))]
        return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    alive = []
    for step in words:
        second = step.startswith(("second ", "outcome "))
        if second:
            first = forked(lambda s=step: put(uri, experiment, first_of(s)))
            alive += [step] if os.waitpid(first, 0)[1] else []

        def work(step: str = step) -> None:
            kill_at(step.removeprefix("second ").removeprefix("outcome "))
            put(uri, experiment, outcome_of(step) if step.startswith("outcome ") else victim(step))

        if os.waitpid(forked(work), 0)[1] != signal.SIGKILL:
            alive.append(step)
    print("not killed:", alive, file=sys.stderr)
    return len(alive)


def first_of(step: str) -> Evaluation:
    """The complete evaluation that a `second ...` victim's checkpoint has before."""
    number_of = victim(step).checkpoint
    return dataclasses.replace(an_evaluation(1, value=0.1), checkpoint=number_of)


def outcome_of(step: str) -> Outcome:
    """What the writer of an `outcome ...` step puts, for the checkpoint of `first_of(step)`."""
    return an_outcome(checkpoint_id=victim(step).checkpoint.id)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
