"""A recipe search in MLflow: a run for the study, below it a run for each trial that has ended.

    parent run    tag rlready.search: the study's id; metrics `best_value` and `n_told`, with one
                  step for each told trial; RUNNING while a trial has no result yet
    child run     tag rlready.search_trial: `<study's id>/<number>`; the recipe as parameters, with
                  the weights as `sources.<name>` of fixed length, so that MLflow sorts them right;
                  predicted and told values as metrics; input: the checkpoint of the trial

A killed writer leaves a child run that is still RUNNING. The next writer continues with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rlready.registry.mlflow_store.pages.descriptions import NOTE
from rlready.registry.mlflow_store.record_tags import printable, safe_key, safe_keys
from rlready.registry.mlflow_store.runs import project_run, tag_run
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run

    from rlready.registry.mlflow_store.backends import Opened
    from rlready.registry.mlflow_store.store import MlflowStore

SEARCH = "rlready.search"
"""On a study's run: the study's id."""

TRIAL = "rlready.search_trial"
"""On a trial's run: the study's id and the trial's number."""

TrialState = Literal["told", "failed", "stopped"]
"""How a trial ended; a pruner stops those that are not promising."""

_STATUS = {"told": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_PAGE = 1000
_ABOUT = (
    "A recipe search of rlready. Each run below is a trial that has ended: its recipe "
    "is in the parameters, what was predicted and told in the metrics. `rlready search report` "
    "ranks them."
)


@dataclass(frozen=True, kw_only=True)
class MirroredStudy:
    """Content of a study's run.

    Args:
        name: for people.
        tags: facts.
        metrics: figures of the study so far.
        n_told: step of the metrics.
        at_ms: time of the metrics.
        is_running: whether a trial has no result yet.
    """

    name: str
    tags: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    n_told: int = 0
    at_ms: int = 0
    is_running: bool = True


@dataclass(frozen=True, kw_only=True)
class MirroredTrial:
    """Content of a trial's run.

    Args:
        number: of the trial.
        state: how it ended.
        recipe: the proposed one.
        began_ms: start of the trial; also the time of the metrics, so that repeating adds none.
        ended_ms: end of the trial.
        tags: facts; None and empty ones are left out.
        metrics: finite numbers.
        checkpoint_id: registered id of the trained checkpoint.
    """

    number: int
    state: TrialState
    recipe: Recipe
    began_ms: int
    ended_ms: int
    tags: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint_id: str | None = None


@contextlib.contextmanager
def mirroring(store: MlflowStore, uid: str) -> Iterator[MirrorWriter]:
    """Open the registry for writing the study of this id; other writers of the study wait.

    After a StoreError the same writes can be repeated, which changes nothing.
    """
    with store.opened("mirroring a search", write=True) as opened, opened.lock(f"search-{uid}"):
        yield MirrorWriter(opened, uid)


class MirrorWriter:
    """Writes the runs of one study; made by `mirroring`."""

    def __init__(self, opened: Opened, uid: str) -> None:
        self._opened, self._uid = opened, uid
        self._parent = opened.run_of(SEARCH, uid)
        self._children = {} if self._parent is None else self._runs_below(self._parent)

    def ended_trials(self) -> set[int]:
        """Return the numbers of the trials whose runs are complete."""
        return {number for number, run in self._children.items() if run.info.status != "RUNNING"}

    def put_study(self, study: MirroredStudy) -> str:
        """Write the study's run, and create it if it is new; return its id."""
        client, run_id = self._opened.client, self._parent
        tags = {f"rlready.{key}": value for key, value in study.tags.items()}
        shown = {**_texts(tags), SEARCH: self._uid}
        if run_id is None:
            name = printable(f"search {study.name}")
            run_id = self._created({**shown, NOTE: _ABOUT}, name, None)
            project = project_run(client)
            if project is not None:
                tag_run(client, project.info.run_id, {"rlready.search_run": run_id})
        else:
            tag_run(client, run_id, shown)
        if study.metrics:
            metrics = _metrics(study.metrics, study.at_ms, study.n_told)
            client.log_batch(run_id, metrics=metrics)
        if study.is_running:
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, "FINISHED")
        return run_id

    def put_trial(self, parent: str, trial: MirroredTrial) -> None:
        """Write a trial's run below that of its study."""
        from mlflow.entities import LoggedModelInput

        client = self._opened.client
        facts = {f"rlready.{key}": value for key, value in trial.tags.items()}
        tags = _texts({**facts, "rlready.checkpoint_id": trial.checkpoint_id})
        if trial.number in self._children:
            run_id = str(self._children[trial.number].info.run_id)
            tag_run(client, run_id, tags)
        else:
            tags |= {TRIAL: f"{self._uid}/{trial.number}", "mlflow.parentRunId": parent}
            run_id = self._created(tags, f"trial {trial.number}", trial.began_ms)
        client.log_batch(
            run_id,
            params=_params(trial.recipe),
            metrics=_metrics(trial.metrics, trial.began_ms, 0),
        )
        rows = self._opened.rows([trial.checkpoint_id]) if trial.checkpoint_id else []
        models = [LoggedModelInput(row.model_id) for row in rows if row.is_ready][:1]
        if models:
            client.log_inputs(run_id, models=models)
        client.set_terminated(run_id, _STATUS[trial.state], trial.ended_ms)

    def _runs_below(self, parent: str) -> dict[int, Run]:
        """Return the trials' runs by number, without runs that people deleted."""
        runs: list[Run] = []
        token = None
        while not runs or token:
            page = self._opened.client.search_runs(
                [self._opened.experiment_id],
                f"tags.`mlflow.parentRunId` = '{parent}'",
                max_results=_PAGE,
                page_token=token,
            )
            if not page:
                break
            runs, token = [*runs, *page], page.token
        ours = [run for run in runs if TRIAL in run.data.tags]  # people may nest runs of their own
        return {int(run.data.tags[TRIAL].partition("/")[2]): run for run in ours}

    def _created(self, tags: Mapping[str, str], name: str, began_ms: int | None) -> str:
        opened = self._opened
        run = opened.client.create_run(
            opened.experiment_id, start_time=began_ms, tags=dict(tags), run_name=name
        )
        return str(run.info.run_id)


def _params(recipe: Recipe) -> list[Param]:
    from mlflow.entities import Param

    values = recipe.to_dict()
    weights: Mapping[str, float] = values.pop("sources", {})
    texts = {f"sources.{name}": f"{weight:.4f}" for name, weight in weights.items()}
    texts |= {key: printable(value) for key, value in values.items()}
    return [Param(key, texts[name]) for name, key in safe_keys(texts).items()]


def _metrics(values: Mapping[str, float], at_ms: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(safe_key(key), value, at_ms, step) for key, value in values.items()]


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {key: printable(value) for key, value in values.items() if value not in (None, "")}
