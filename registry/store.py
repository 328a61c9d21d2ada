"""The store of checkpoints, proxies and outcomes: its protocol, and a store in memory.

Guarantees of every `Store`, checked by one contract test (`tests/registry/test_store.py`):

- *One checkpoint, one record.* `put_evaluation` finds the checkpoint by its fingerprint or creates
  it; eight processes that put the same checkpoint at the same time leave one.
- *All or nothing for a reader.* A checkpoint is listed only once the evaluation that created it is
  complete. A writer killed at any moment leaves nothing a reader could mistake for a result, and
  putting the same evaluation again completes it.
- *Idempotent.* An evaluation with the same id is stored once, however often it is put.
- *The newest value counts* per (name, benchmark, benchmark digest, protocol digest). Backends keep
  older values if they can, and never mix them into the newest.
- *Facts may be added, but not contradicted.* If a put has another kind, step, recipe or parent than
  the registered checkpoint, it raises `StoreError` and changes nothing. A `None`, an empty tuple,
  or a new `uri` (the folder was moved) is not a contradiction.
- *All outcomes are kept.* An outcome is stored once by its id, under a registered checkpoint;
  readers see all of it or nothing. Two values under one key both stay (`outcomes.conflicts` finds
  them), and a replaced outcome stays too. Outcomes change no proxy, and evaluations no outcome.
- *Nothing undefined is stored.* A missing standard error stays missing; it never reads as 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlready.registry.errors import StoreError
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe

MIN_PREFIX = 4
"""Shortest prefix of an id that `find` accepts."""


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A registered checkpoint with its proxies and outcomes.

    Args:
        checkpoint: the record, with all facts that were put.
        model_id: the backend's id of the checkpoint.
        proxies: the newest value of each proxy.
        updated_ms: when it last changed, milliseconds since 1970.
        outcomes: in the order in which they were put.

    Example:
        >>> {proxy.name: proxy.value for proxy in store.find("step-500").proxies}
        {'pass_at_1': 0.51, 'heldout_nll': 0.72}
    """

    checkpoint: Checkpoint
    model_id: str
    proxies: tuple[Proxy, ...]
    updated_ms: int
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """The place of a stored evaluation.

    Args:
        evaluation_id: `Evaluation.id`.
        model_id: the backend's id of the checkpoint.
        run_id: the backend's id of the evaluation.
        is_new: whether this call stored it.

    Example:
        >>> store.put_evaluation(evaluation).is_new, store.put_evaluation(evaluation).is_new
        (True, False)
    """

    evaluation_id: str
    model_id: str
    run_id: str
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class StoredOutcome:
    """The place of a stored outcome.

    Args:
        outcome_id: `Outcome.id`.
        model_id: the backend's id of the checkpoint that RL began from.
        run_id: the backend's id of the RL run.
        is_new: whether this call stored it.

    Example:
        >>> store.put_outcome(outcome).is_new
        True
    """

    outcome_id: str
    model_id: str
    run_id: str
    is_new: bool


class Store(Protocol):
    """A registry of checkpoints. The module's docstring is its specification.

    Example:
        >>> store: Store = MlflowStore("sqlite:///mlflow.db")  # or MemoryStore()
    """

    def check(self, checkpoint: Checkpoint) -> None:
        """Check that the store can be reached and would accept this checkpoint.

        It is called before the expensive work, so that contradictions and unknown parents are
        reported before samples are drawn.

        Raises:
            StoreError: if the store cannot be reached, if it holds other facts of the checkpoint,
                or if one of its parents is not registered.
        """

    def put_evaluation(
        self, evaluation: Evaluation, artifacts: Mapping[str, Path] | None = None
    ) -> StoredEvaluation:
        """Store an evaluation, and its checkpoint if it is new.

        Args:
            evaluation: what was measured.
            artifacts: small files (counts, figures) to store with it, by name. Weights and
                samples are referenced, never copied.

        Raises:
            StoreError: as `check`, or if the store fails while writing. Nothing is half done for
                a reader, and the same call may be repeated.
        """

    def put_outcome(self, outcome: Outcome) -> StoredOutcome:
        """Store an outcome of a registered checkpoint.

        Raises:
            StoreError: if the checkpoint, its RL checkpoint or the outcome that it replaces is not
                registered, if the RL checkpoint is of kind base or sft or was made from others, or
                if the store fails while writing. Nothing is half done for a reader, and the same
                call may be repeated.
        """

    def find(self, reference: str) -> StoredCheckpoint:
        """Return the checkpoint with this id, unique prefix of an id, name, or backend model id.

        Raises:
            StoreError: if there is none, or more than one.
        """

    def checkpoints(self) -> list[StoredCheckpoint]:
        """Return all complete checkpoints, the oldest first."""

    def evaluations(self) -> list[Evaluation]:
        """Return all complete evaluations, each with its checkpoint's newest facts, oldest first.

        The order is that in which they were put; the newest value of a proxy is in the last one.
        """


class MemoryStore:
    """A store that lasts as long as its process, for tests and notebooks.

    Example:
        >>> MemoryStore().checkpoints()
        []
    """

    def __init__(self) -> None:
        self._stored: dict[str, StoredCheckpoint] = {}
        self._evaluations: dict[str, tuple[StoredEvaluation, Evaluation]] = {}
        self._clock = 0

    def check(self, checkpoint: Checkpoint) -> None:
        """See `Store.check`."""
        for parent in checkpoint.parents:
            if parent not in self._stored:
                raise unknown_parent(checkpoint, parent)
        stored = self._stored.get(checkpoint.id)
        if stored is not None:
            merge(stored.checkpoint, checkpoint)

    def put_evaluation(
        self, evaluation: Evaluation, artifacts: Mapping[str, Path] | None = None
    ) -> StoredEvaluation:
        """See `Store.put_evaluation`. Artifacts are not kept."""
        checkpoint = evaluation.checkpoint
        self.check(checkpoint)
        self._clock += 1
        before = self._stored.get(checkpoint.id)
        proxies = () if before is None else before.proxies
        earlier, _ = self._evaluations.get(evaluation.id, (None, None))
        self._stored[checkpoint.id] = StoredCheckpoint(
            checkpoint=checkpoint if before is None else merge(before.checkpoint, checkpoint),
            model_id=f"memory-{checkpoint.id[:12]}",
            proxies=proxies if earlier else newest(proxies, evaluation.proxies),
            updated_ms=self._clock,
            outcomes=() if before is None else before.outcomes,
        )
        if earlier:
            return dataclasses.replace(earlier, is_new=False)
        stored = StoredEvaluation(
            evaluation_id=evaluation.id,
            model_id=self._stored[checkpoint.id].model_id,
            run_id=f"memory-run-{len(self._evaluations)}",
            is_new=True,
        )
        self._evaluations[evaluation.id] = (stored, evaluation)
        return stored

    def put_outcome(self, outcome: Outcome) -> StoredOutcome:
        """See `Store.put_outcome`."""
        stored = check_outcome(outcome, self._stored)
        is_new = outcome.id not in {other.id for other in stored.outcomes}
        if is_new:
            self._clock += 1
            self._stored[stored.checkpoint.id] = dataclasses.replace(
                stored, outcomes=(*stored.outcomes, outcome), updated_ms=self._clock
            )
        return StoredOutcome(
            outcome_id=outcome.id,
            model_id=stored.model_id,
            run_id=f"memory-outcome-{outcome.id[:12]}",
            is_new=is_new,
        )

    def find(self, reference: str) -> StoredCheckpoint:
        """See `Store.find`."""
        return pick(reference, self.checkpoints())

    def checkpoints(self) -> list[StoredCheckpoint]:
        """See `Store.checkpoints`."""
        return list(self._stored.values())

    def evaluations(self) -> list[Evaluation]:
        """See `Store.evaluations`."""
        return [
            dataclasses.replace(each, checkpoint=self._stored[each.checkpoint.id].checkpoint)
            for _, each in self._evaluations.values()
        ]


def newest(old: tuple[Proxy, ...], new: tuple[Proxy, ...]) -> tuple[Proxy, ...]:
    """Return the proxies of `old` and `new`; those of `new` replace older measurements."""
    return tuple({proxy.key: proxy for proxy in (*old, *new)}.values())


def merge(stored: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """Return a stored checkpoint with the facts of another put; a contradiction is a StoreError."""
    added: dict[str, Any] = {"uri": checkpoint.uri}
    for field, unknown in (("kind", None), ("step", None), ("recipe", None), ("parents", ())):
        before, now = getattr(stored, field), getattr(checkpoint, field)
        if now in (unknown, before):
            continue
        if before != unknown:
            raise StoreError(
                f"checkpoint {stored.id[:12]} ({stored.name}) is registered with "
                f"{field} {_shown(before)}, and is put now with {_shown(now)}",
                why="the same weights have one history",
                fix=f"Leave {field} out, or correct it",
            )
        added[field] = now
    return dataclasses.replace(stored, **added)


def check_outcome(outcome: Outcome, stored: Mapping[str, StoredCheckpoint]) -> StoredCheckpoint:
    """Return the checkpoint of an outcome that is about to be put; raises as `Store.put_outcome`.

    `stored` holds, by id, at least the registered checkpoints that the outcome names.
    """
    parent = stored.get(outcome.checkpoint_id)
    if parent is None:
        raise StoreError(
            f"checkpoint {outcome.checkpoint_id} of outcome {outcome.key} is not in the registry",
            fix="Evaluate it first, or give an id that `rlready list` shows",
        )
    if outcome.rl_checkpoint_id is not None:
        rl_checkpoint = stored.get(outcome.rl_checkpoint_id)
        if rl_checkpoint is None:
            raise StoreError(
                f"RL checkpoint {outcome.rl_checkpoint_id} is not in the registry",
                fix=how_to_register(parent.checkpoint),
            )
        check_rl_checkpoint(parent.checkpoint, rl_checkpoint.checkpoint)
    earlier_ids = {earlier.id for earlier in parent.outcomes}
    if outcome.replaces is not None and outcome.replaces not in earlier_ids:
        raise StoreError(
            f"outcome {outcome.replaces} is not one of checkpoint {parent.checkpoint.id[:12]} "
            f"({parent.checkpoint.name})",
            fix="Replace one that `rlready show` lists",
        )
    return parent


def check_rl_checkpoint(parent: Checkpoint, child: Checkpoint) -> None:
    """Raise a StoreError unless a checkpoint is registered as a result of RL from a parent."""
    if child.kind == "rl" and parent.id in child.parents:
        return
    parents = ", ".join(id_[:12] for id_ in child.parents)
    raise StoreError(
        f"checkpoint {child.id[:12]} ({child.name}) is not an RL checkpoint of {parent.id[:12]} "
        f"({parent.name})",
        why=f"it is registered with kind {child.kind} and "
        + (f"parent {parents}" if parents else "no parent"),
        fix=f"{how_to_register(parent)}; or name the checkpoint that it was made from",
    )


def how_to_register(parent: Checkpoint) -> str:
    """Return the command that registers a folder as an RL checkpoint of this parent."""
    return (
        f"Register it: rlready evaluate FOLDER --kind rl --parent {parent.id[:12]}, with the "
        "flags of its parent's evaluation"
    )


def pick(reference: str, stored: list[StoredCheckpoint]) -> StoredCheckpoint:
    """Return the one checkpoint that a reference names; raise StoreError if there is not one."""
    is_prefix = len(reference) >= MIN_PREFIX
    matches = (
        [s for s in stored if reference in (s.checkpoint.id, s.model_id)]
        or [s for s in stored if s.checkpoint.name == reference]
        or [s for s in stored if is_prefix and s.checkpoint.id.startswith(reference)]
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(s.checkpoint.id[:12] for s in matches[:5])
        raise StoreError(
            f"{reference!r} names {len(matches)} checkpoints", fix=f"Give an id: {ids}"
        )
    newest_names = ", ".join(f"{s.checkpoint.id[:12]} ({s.checkpoint.name})" for s in stored[-5:])
    raise StoreError(
        f"no checkpoint {reference!r} in the registry",
        why=f"it holds {len(stored)}" + (f", the newest: {newest_names}" if newest_names else ""),
        fix="`rlready list` shows them; `rlready evaluate` adds one",
    )


def unknown_parent(checkpoint: Checkpoint, parent: str) -> StoreError:
    """Return the error for a parent that is not registered."""
    return StoreError(
        f"parent {parent} of checkpoint {checkpoint.name} is not in the registry",
        fix="Evaluate the parent first, or give an id that `rlready list` shows",
    )


def _shown(value: object) -> str:
    return repr(value.to_dict() if isinstance(value, Recipe) else value)
