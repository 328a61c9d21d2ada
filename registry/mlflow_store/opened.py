"""The registry while somebody works in it: rows of MLflow's tables read as stored checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlready.registry.mlflow_store.backends import Backend, ModelRow
from rlready.registry.mlflow_store.record_tags import (
    Published,
    PublishedOutcome,
    read_checkpoint,
    read_evaluations,
    read_outcomes,
)
from rlready.registry.records import Checkpoint, Proxy
from rlready.registry.store import StoredCheckpoint, newest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The registry inside `MlflowStore.opened`.

    Args:
        backend: where MLflow keeps its data.
        experiment_id: MLflow's; empty if nothing was stored yet.
    """

    backend: Backend
    experiment_id: str

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for this registry."""
        return self.backend.client()

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep other writers of this key out."""
        return self.backend.lock(key)

    def rows(self, keys: Sequence[str] | None, *, whole: bool = False) -> list[ModelRow]:
        """Return the models of checkpoints, the oldest first; see `Backend.rows`."""
        return self.backend.rows(self.experiment_id, keys, whole) if self.experiment_id else []

    def run_of(self, tag: str, id_: str) -> str | None:
        """Return the id of the oldest run whose tag has this value."""
        return self.backend.run_of(self.experiment_id, tag, id_) if self.experiment_id else None


def stored_checkpoints(rows: Sequence[ModelRow]) -> list[StoredCheckpoint]:
    """Return READY models as checkpoints, the oldest first. Models of one key are one checkpoint.

    Writers without a common lock can leave several models of a key. What the younger ones hold
    is just as valid.
    """
    by_id: dict[str, tuple[Checkpoint, list[ModelRow]]] = {}
    for row in rows:
        checkpoint = read_checkpoint(row.tags)
        by_id.setdefault(checkpoint.id, (checkpoint, []))[1].append(row)
    return [_stored(checkpoint, models) for checkpoint, models in by_id.values()]


def _stored(checkpoint: Checkpoint, rows: Sequence[ModelRow]) -> StoredCheckpoint:
    evaluations: list[Published] = [e for row in rows for e in read_evaluations(row.tags)]
    outcomes: dict[str, PublishedOutcome] = {
        outcome.id: outcome for row in rows for outcome in read_outcomes(row.tags)
    }
    proxies: tuple[Proxy, ...] = ()
    for evaluation in sorted(evaluations, key=lambda each: (each.at_ms, each.id)):
        # One evaluation is taken as it is, which spares the keys of its proxies.
        proxies = newest(proxies, evaluation.proxies) if proxies else evaluation.proxies
    return StoredCheckpoint(
        checkpoint=checkpoint,
        model_id=rows[0].model_id,
        proxies=proxies,
        updated_ms=max(row.updated_ms for row in rows),
        outcomes=tuple(
            published.outcome
            for published in sorted(outcomes.values(), key=lambda each: (each.at_ms, each.id))
        ),
    )
