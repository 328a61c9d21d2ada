"""Record the outcome of an RL run while its trainer runs."""

from __future__ import annotations

import atexit
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.folder import open_weights
from rlready.predictors.curve_columns import check_score
from rlready.predictors.rl_curve import Curve, CurvePoint, statistic
from rlready.registry.errors import ConfigError, CurveError
from rlready.registry.outcomes import Outcome, Statistic
from rlready.registry.records import Checkpoint
from rlready.registry.store import Store
from rlready.workflow.callbacks.registration import Registration, info, warn
from rlready.workflow.callbacks.trainer_callback import TrainerCallback
from rlready.workflow.callbacks.trainer_facts import (
    model_name,
    rl_recipe,
    run_name,
    starting_checkpoint,
)

_REWARDS = ("reward", "frac_reward_zero_std", "eval_reward")
_FIX = (
    "After the run: rlready outcome CHECKPOINT --curve OUTPUT/checkpoint-N/trainer_state.json "
    "--map BENCHMARK=METRIC --algorithm grpo --budget N --budget-unit steps."
)


class RecordOutcome(TrainerCallback):
    """Record the outcome of a GRPO run, linked to the SFT checkpoint that it started from.

    For `GRPOTrainer` of TRL, and other trainers that log a score of held-out problems. The outcome
    is the score `metric` at the last step at which it was logged, with the steps as budget; the
    registry also gets the curve of this metric and of the reward, and the last saved checkpoint as
    an RL checkpoint. The run of the outcome says whether RL finished, stopped early or was
    interrupted. An interrupted run is recorded when its process ends, up to its last evaluation;
    after a kill it is recorded once it is resumed.

    Only the first process of a distributed run writes. If the registry cannot be written, training
    continues after one warning.

    Args:
        metric: name of a logged metric of held-out problems, a share between 0 and 1, such as
            `eval_rewards/is_correct/mean`. Not the training reward, which also rises when RL
            exploits it.
        benchmark: name of these problems in the registry, such as `gsm8k`.
        store: the registry, as in `RegisterCheckpoints`.
        parent: id or name of the SFT checkpoint; by default the weights that the trainer loaded,
            which are registered as an SFT checkpoint if they are unknown. For RL from a base model
            register that first: `rlready evaluate FOLDER --kind base`.
        statistic: value_at_budget, peak, smoothed_peak_5 or last_5_mean.
        algorithm: of the RL run.
        rl_recipe: settings that the trainer does not know, such as the data.

    Raises:
        CurveError: if the metric is a training metric.

    Example:
        trainer = GRPOTrainer("runs/sft/checkpoint-500", reward_funcs=is_correct, args=config,
            train_dataset=data, eval_dataset=held_out,
            callbacks=[RecordOutcome("eval_rewards/is_correct/mean", benchmark="gsm8k")])
        trainer.train()
    """

    def __init__(
        self,
        metric: str,
        *,
        benchmark: str,
        store: Store | None = None,
        parent: str | None = None,
        statistic: Statistic = "value_at_budget",
        algorithm: str = "grpo",
        rl_recipe: Mapping[str, Any] | None = None,
    ) -> None:
        check_score(metric, f"metric {metric!r}")
        check_score(benchmark, f"benchmark {benchmark!r}")
        self._metric, self._benchmark, self._statistic = metric, benchmark, statistic
        self._algorithm, self._extra = algorithm, dict(rl_recipe or {})
        self._registration = Registration(store)
        self._reference = parent
        self._parent: Checkpoint | None = None
        self._latest: tuple[Any, Any, Any] | None = None
        """Arguments, state and model of a run that did not end yet."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Find the SFT checkpoint, and prepare for an interruption."""
        if not state.is_world_process_zero:
            return
        self._latest = (args, state, objects.get("model"))
        self._registration.attempt(
            lambda: self._find_parent(objects.get("model")), "looking for the SFT checkpoint", _FIX
        )
        atexit.unregister(self._interrupted)
        atexit.register(self._interrupted)

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Record the outcome."""
        if not state.is_world_process_zero:
            return
        atexit.unregister(self._interrupted)
        self._latest = None
        is_whole = state.global_step >= state.max_steps > 0
        self._record(args, state, objects.get("model"), "finished" if is_whole else "stopped early")

    def _interrupted(self) -> None:
        """Record what there is of a run whose process ends before training does."""
        if self._latest is not None:
            args, state, model = self._latest
            self._latest = None
            self._record(args, state, model, "interrupted")

    def _find_parent(self, model: Any) -> Checkpoint:
        if self._parent is not None:
            return self._parent
        if self._reference is not None:
            self._parent = self._registration.store.find(self._reference).checkpoint
            return self._parent
        name = model_name(model)
        parent = starting_checkpoint(self._registration, name, "sft") if name else None
        if parent is None:
            raise ConfigError(
                f"the SFT checkpoint {name!r} of this RL run cannot be read",
                why="" if name else "the model was made in memory",
                fix="Give RecordOutcome(parent=ID) with an id that `rlready list` shows",
            )
        self._parent = parent
        return parent

    def _record(self, args: Any, state: Any, model: Any, how: str) -> None:
        said = f"{how} at step {state.global_step} of {state.max_steps}"
        self._registration.attempt(
            lambda: self._put(args, state, model, said), "recording the outcome of RL", _FIX
        )

    def _put(self, args: Any, state: Any, model: Any, said: str) -> None:
        parent = self._find_parent(model)
        points = _points(state.log_history, self._metric)
        if not any(step > 0 for step, _ in points):
            logged = sorted({key for entry in state.log_history for key in entry if "eval" in key})
            raise CurveError(
                f"the trainer logged no {self._metric!r} after its start",
                why=f"it logged {', '.join(logged) or 'no evaluation'}",
                fix="Name one of these, and set eval_strategy and an eval_dataset",
            )
        out_of_range = next((v for _, v in points if not 0.0 <= v <= 1.0), None)
        if out_of_range is not None:
            raise CurveError(
                f"{self._metric!r} is {out_of_range:g}, and an outcome is a share between 0 and 1",
                fix="Log the share of correct answers as a reward function of its own",
            )
        budget = points[-1][0]
        if budget < state.global_step:
            info("the outcome is that of step %d, the last evaluation of %s", budget, self._metric)
        curve = Curve(
            benchmark=self._benchmark,
            points=tuple(CurvePoint(budget=step, value=value) for step, value in points),
        )
        estimate = statistic(curve, self._statistic, budget)
        outcome = Outcome(
            checkpoint_id=parent.id,
            algorithm=self._algorithm,
            budget=budget,
            budget_unit="steps",
            statistic=self._statistic,
            benchmark=self._benchmark,
            value=estimate.value,
            seed=int(args.seed),
            n_evaluations=estimate.n_evaluations,
            rl_recipe={"metric": self._metric, **rl_recipe(args, model, self._extra)},
            rl_checkpoint_id=self._rl_checkpoint(args, budget, parent),
        )
        stored = self._registration.store.put_outcome(outcome)
        if stored.is_new:
            self._put_curves(stored.run_id, state.log_history, said)
        _report(outcome, parent, said)

    def _rl_checkpoint(self, args: Any, step: int, parent: Checkpoint) -> str | None:
        """Register the weights of the outcome, if they were saved; return their id."""
        folder = Path(args.output_dir) / f"checkpoint-{step}"
        if not folder.is_dir():
            return None
        name = f"{run_name(args)}-{folder.name}"
        child = self._registration.put(
            open_weights(str(folder)), kind="rl", name=name, step=step, parents=(parent.id,)
        )
        # RL without any reward leaves the weights of its start.
        return child.id if child.kind == "rl" and parent.id in child.parents else None

    def _put_curves(self, run_id: str, history: list[Mapping[str, Any]], said: str) -> None:
        from rlready.registry.mlflow_store.rl_curves import put_curves
        from rlready.registry.mlflow_store.store import MlflowStore

        store = self._registration.store
        if isinstance(store, MlflowStore):
            names = dict.fromkeys((*_REWARDS, self._metric))
            curves = {name: _points(history, name) for name in names}
            put_curves(store, run_id, curves, {"rl_run": said})


def _points(history: list[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return steps and finite values of a logged metric; the last row of a step counts."""
    values: dict[int, float] = {}
    for entry in history:
        value, step = entry.get(name), entry.get("step")
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if is_number and isinstance(step, int):
            values[step] = float(value)  # type: ignore[arg-type]
    return sorted(values.items())


def _report(outcome: Outcome, parent: Checkpoint, said: str) -> None:
    text = "rlready: outcome %s of %s is %.4g; RL %s."
    log = info if said.startswith("finished") else warn
    log(text, outcome.key, parent.name, outcome.value, said)
