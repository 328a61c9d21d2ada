"""Write to the registry from inside a training run, whatever the registry does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rlready.evaluators.checkpoints.folder import Weights
from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import RlreadyError, StoreError
from rlready.registry.records import Checkpoint, CheckpointKind, Evaluation, Proxy, Recipe
from rlready.registry.store import Store

_LOG = logging.getLogger("rlready")


class Registration:
    """The registry of a training run.

    Args:
        store: the registry; None is that of `rlready` ($MLFLOW_TRACKING_URI, else
            sqlite:///mlflow.db), which is opened when it is first needed.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self.is_broken = False
        """Whether something could not be written since the last success."""
        self._is_warned = False

    @property
    def store(self) -> Store:
        """The registry."""
        if self._store is None:
            # The import of MLflow takes seconds.
            from rlready.registry.mlflow_store.store import MlflowStore

            self._store = MlflowStore()
        return self._store

    def attempt(self, action: Callable[[], Any], doing: str, fix: str) -> bool:
        """Do something with the registry, and return whether it succeeded.

        Any error becomes one warning in the whole run: training is worth more than a record of it.

        Args:
            action: what to do.
            doing: its description, for the warning.
            fix: what a person can do about it after the run.
        """
        try:
            action()
        # A registry is a database, a network and a disk: it may raise anything.
        except Exception as error:
            self.is_broken = True
            if not self._is_warned:
                self._is_warned = True
                cause = str(error) if isinstance(error, RlreadyError) else f"{error!r}."
                _LOG.warning(
                    "rlready failed while %s: %s Training continues. %s", doing, cause, fix
                )
            return False
        self.is_broken = False
        return True

    def find(self, id_: str) -> Checkpoint | None:
        """Return the registered checkpoint with this id, if there is one."""
        try:
            return self.store.find(id_).checkpoint
        except StoreError:
            return None

    def put(
        self,
        weights: Weights,
        *,
        kind: CheckpointKind,
        name: str | None = None,
        step: int | None = None,
        recipe: Recipe | None = None,
        parents: tuple[str, ...] = (),
        proxies: tuple[Proxy, ...] = (),
    ) -> Checkpoint:
        """Register weights, and return their record; registered ones keep their facts.

        Raises:
            StoreError: if the registry cannot be written.
        """
        id_ = weights.fingerprint(default_cache_dir())
        checkpoint = self.find(id_)
        if checkpoint is None or proxies:
            checkpoint = checkpoint or Checkpoint(
                uri=weights.uri,
                fingerprint=id_,
                name=name or weights.name,
                kind=kind,
                step=step,
                recipe=recipe,
                parents=tuple(parent for parent in parents if parent != id_),
            )
            self.store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        return checkpoint


def info(text: str, *values: object) -> None:
    """Log one line that needs no action."""
    _LOG.info(text, *values)


def warn(text: str, *values: object) -> None:
    """Log one line as a warning; unlike `warnings.warn` it never raises."""
    _LOG.warning(text, *values)
