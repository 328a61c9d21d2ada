"""Register every checkpoint that an SFT trainer saves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.folder import open_weights
from rlready.registry.records import CheckpointKind, Recipe
from rlready.registry.store import Store
from rlready.workflow.callbacks.registration import Registration, info, warn
from rlready.workflow.callbacks.trainer_callback import TrainerCallback
from rlready.workflow.callbacks.trainer_facts import (
    EvalSet,
    eval_loss,
    eval_set,
    loss_names,
    model_name,
    run_name,
    sft_recipe,
    starting_checkpoint,
)

_FIX = "It is tried again at the end of the run; or add checkpoints with `rlready evaluate FOLDER`."
_FOLDER = re.compile(r"checkpoint-(\d+)")


class RegisterCheckpoints(TrainerCallback):
    """Register every saved checkpoint with its recipe, step, parent and the trainer's eval loss.

    For `Trainer` of transformers and the trainers of TRL. The weights that the run starts from are
    registered as the parent. Checkpoints of an earlier, interrupted call are added when the run is
    resumed. `rlready evaluate FOLDER` finds a registered checkpoint by its content, and may run in
    another process at any time.

    Only the first process of a distributed run writes. If the registry cannot be written, training
    continues after one warning, and what is missing is tried again at the end.

    Args:
        store: the registry; None is that of the command line ($MLFLOW_TRACKING_URI, else
            sqlite:///mlflow.db).
        recipe: facts about the data and other settings that the trainer does not know, such as
            `{"sources": {"math": 0.7, "code": 0.3}}`; they replace what it knows.
        kind: what the run makes, "sft" or "rl".

    Example:
        trainer = SFTTrainer("Qwen/Qwen3-0.6B", args=config, train_dataset=data,
            callbacks=[RegisterCheckpoints(recipe={"sources": {"math": 1.0}})])
        trainer.train()
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        recipe: Mapping[str, Any] | None = None,
        kind: CheckpointKind = "sft",
    ) -> None:
        self._registration = Registration(store)
        self._extra, self._kind = dict(recipe or {}), kind
        self._recipe: Recipe | None = None
        self._parents: tuple[str, ...] = ()
        self._is_prepared = False
        self._sets: dict[str, EvalSet | None] = {}
        """Held-out examples by the name of their loss, once the trainer used them."""
        self._saved: dict[int, Path] = {}
        """Folders of this run by their steps."""
        self._missing: set[int] = set()
        """Steps whose folders, or losses, are not in the registry."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Register the start of the run, and the checkpoints that an earlier call saved."""
        if not state.is_world_process_zero:
            return
        self._prepare(args, objects)
        if state.global_step:
            for folder in Path(args.output_dir).glob("checkpoint-*"):
                match = _FOLDER.fullmatch(folder.name)
                if match and int(match[1]) <= state.global_step:
                    self._saved[int(match[1])] = folder
            for step in sorted(self._saved):
                self._register(args, step, state.log_history, objects)

    def on_evaluate(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Learn what was measured, and add losses to checkpoints that were saved before."""
        if not state.is_world_process_zero:
            return
        # The loss of an RL trainer says nothing about held-out text.
        metrics = (objects.get("metrics") or {}) if self._kind == "sft" else {}
        for name in set(loss_names(metrics)) - set(self._sets):
            self._sets[name] = eval_set(name, objects.get("eval_dataloader"))
        if state.global_step in self._saved:
            self._missing.add(state.global_step)
        for step in sorted(self._missing):
            self._register(args, step, state.log_history, objects)

    def on_save(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Register the checkpoint that was just saved."""
        if state.is_world_process_zero:
            step = state.global_step
            self._saved[step] = Path(args.output_dir) / f"checkpoint-{step}"
            self._register(args, step, state.log_history, objects)

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Try again what could not be registered, and name what is still missing."""
        if not state.is_world_process_zero or not self._missing:
            return
        self._registration.is_broken = False
        for step in sorted(self._missing):
            self._register(args, step, state.log_history, objects)
        if self._registration.is_broken:
            folders = ", ".join(str(self._saved[step]) for step in sorted(self._missing))
            warn(
                "rlready: %d checkpoints are not in the registry: %s. Add them with `rlready "
                "evaluate FOLDER`.",
                len(self._missing),
                folders,
            )

    def _prepare(self, args: Any, objects: Mapping[str, Any]) -> bool:
        """Read the recipe and register the start of the run, once; return whether it is done."""
        if self._is_prepared:
            return True
        model = objects.get("model")
        dataset = getattr(objects.get("train_dataloader"), "dataset", None)
        name = model_name(model)

        def read() -> None:
            self._recipe = self._recipe or sft_recipe(args, model, dataset, self._extra)
            if name:
                kind: CheckpointKind = "base" if self._kind == "sft" else "sft"
                start = starting_checkpoint(self._registration, name, kind)
                self._parents = () if start is None else (start.id,)
            self._is_prepared = True

        return self._registration.attempt(read, "registering the start of this run", _FIX)

    def _register(
        self,
        args: Any,
        step: int,
        history: Sequence[Mapping[str, Any]],
        objects: Mapping[str, Any],
    ) -> None:
        """Register a checkpoint with its losses.

        After a failure the registry is left alone until the end of the run: one that does not
        answer may take minutes to fail, in which the other processes wait.
        """
        folder = self._saved[step]
        self._missing.add(step)
        if self._registration.is_broken:
            return
        if not folder.is_dir():
            self._missing.discard(step)  # the trainer removed it (save_total_limit)
            info("%s was removed before it could be registered", folder)
            return
        if not self._prepare(args, objects):
            return
        measured = {
            name: entry[name]
            for entry in history
            if entry.get("step") == step and self._kind == "sft"
            for name in loss_names(entry)
        }
        losses = [
            eval_loss(value, data, args)
            for name, value in measured.items()
            if (data := self._sets.get(name)) is not None
        ]
        written = self._registration.attempt(
            lambda: self._registration.put(
                open_weights(str(folder)),
                kind=self._kind,
                name=f"{run_name(args)}-{folder.name}",
                step=step,
                recipe=self._recipe if self._kind == "sft" else None,
                parents=self._parents,
                proxies=tuple(loss for loss in losses if loss is not None),
            ),
            f"registering {folder}",
            _FIX,
        )
        # Losses on data that the trainer did not use again yet are added when it does.
        if written and set(measured) <= set(self._sets):
            self._missing.discard(step)
