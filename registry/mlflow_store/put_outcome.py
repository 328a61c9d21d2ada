"""How an outcome is put into MLflow: a run for the score after RL, and a tag on the SFT model.

    run          input: the model that RL began from; output: the RL model, if it is registered;
                 `outcome.json`, and the metrics below
    LoggedModel  the model that RL began from gets the metrics `outcome/<statistic>/<budget><unit>`
                 and `..._se` with the benchmark as dataset and, as its digest, the id of how RL was
                 done (`Outcome.rl_digest`); the tag `rlready.outcome.<id>` holds the record itself

The steps, after any of which the process may be killed: run (RUNNING), artifact, metrics, links,
tag on the model (from here on readers see the outcome), finalize (the model gets a new time of
update), run FINISHED. Putting the outcome again continues from the last finished step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.pages.descriptions import note_tag
from rlready.registry.mlflow_store.record_tags import (
    OUTCOME,
    PublishedOutcome,
    outcome_metrics,
    outcome_tags,
    printable,
    read_checkpoint,
    read_evaluations,
    read_outcomes,
    stored_checkpoints,
)
from rlready.registry.mlflow_store.runs import (
    AT,
    create_run,
    finalize,
    log_files,
    log_metrics,
    project_run,
    tag_run,
)
from rlready.registry.outcomes import Outcome, how_rl_was_done
from rlready.registry.store import StoredCheckpoint, StoredOutcome, check_outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_MAX_STEP = 2**53  # databases keep a step in 64 bits


@dataclass(frozen=True, kw_only=True)
class _Before:
    """The state of the registry before an outcome is put.

    `stored` is the checkpoint that RL began from, `published` its outcomes by id, `page` the tags
    of its model, of which the page is made, and `run_id` the run that registered it.
    """

    stored: StoredCheckpoint
    rl_model_id: str | None
    published: Mapping[str, PublishedOutcome]
    page: Mapping[str, str]
    run_id: str | None

    @property
    def next_ms(self) -> int:
        """First millisecond after all published outcomes."""
        return max((outcome.at_ms + 1 for outcome in self.published.values()), default=0)


def put(opened: Opened, outcome: Outcome) -> StoredOutcome:
    """Put an outcome, or finish what a killed put of it left; raises as `Store.put_outcome`."""
    client = opened.client
    with opened.lock(outcome.checkpoint_id):
        before = _read_before(opened, outcome)
        stored, model_id = before.stored, before.stored.model_id
        if outcome.id in before.published:
            return _repeat(client, outcome.id, before)
        run = _outcome_run(opened, outcome, before)
        run_id, at_ms = run.info.run_id, int(run.data.tags[AT])
        record = {"id": outcome.id, "key": outcome.key, **asdict(outcome)}
        log_files(client, run_id, {"outcome.json": record})
        step = int(min(outcome.budget, _MAX_STEP)) if outcome.budget_unit == "steps" else 0
        log_metrics(client, run, model_id, [outcome_metrics(outcome)], at_ms, step)
        _link(client, run, model_id, before.rl_model_id)
        # The time in the record only orders outcomes; a resumed run may be older than others.
        tags = outcome_tags(outcome, max(at_ms, before.next_ms), run_id)
        outcomes = (*stored.outcomes, outcome)
        note = note_tag(stored.checkpoint, stored.proxies, before.page, outcomes)
        client.set_logged_model_tags(model_id, {**tags, **note})
        finalize(client, model_id)
        client.set_terminated(run_id)
        return StoredOutcome(outcome_id=outcome.id, model_id=model_id, run_id=run_id, is_new=True)


def _read_before(opened: Opened, outcome: Outcome) -> _Before:
    ids = [outcome.checkpoint_id, *filter(None, [outcome.rl_checkpoint_id])]
    ready = [row for row in opened.rows(ids, whole=True) if row.is_ready]
    by_id = {stored.checkpoint.id: stored for stored in stored_checkpoints(ready)}
    stored = check_outcome(outcome, by_id)
    rl_checkpoint = by_id.get(outcome.rl_checkpoint_id or "")
    models = [row for row in ready if read_checkpoint(row.tags).id == outcome.checkpoint_id]
    return _Before(
        stored=stored,
        rl_model_id=None if rl_checkpoint is None else rl_checkpoint.model_id,
        published={each.id: each for row in models for each in read_outcomes(row.tags)},
        page=models[0].tags,
        run_id=next((each.run_id for row in models for each in read_evaluations(row.tags)), None),
    )


def _outcome_run(opened: Opened, outcome: Outcome, before: _Before) -> Run:
    """Return the run to write into: one that a killed put left, or a new one."""
    left_over = opened.run_of(OUTCOME, outcome.id)
    if left_over is not None:
        return opened.client.get_run(left_over)
    checkpoint = before.stored.checkpoint
    tags = {
        AT: str(max(time.time_ns() // 1_000_000, before.next_ms)),
        OUTCOME: outcome.id,
        "rlready.checkpoint_id": checkpoint.id,
        "rlready.rl": printable(how_rl_was_done(outcome)),
    }
    if outcome.seed is not None:
        tags["rlready.rl_seed"] = str(outcome.seed)
    name = printable(f"{outcome.algorithm} {outcome.budget_text} of {checkpoint.name}")
    # Below the run that measured the checkpoint: MLflow's list shows it folded away there.
    return create_run(opened.client, opened.experiment_id, tags, name, parent=before.run_id)


def _repeat(client: MlflowClient, id_: str, before: _Before) -> StoredOutcome:
    """Return where a published outcome is; finish what a killed put left after publishing."""
    model_id, run_id = before.stored.model_id, before.published[id_].run_id
    if client.get_run(run_id).info.status == "RUNNING":
        finalize(client, model_id)
        client.set_terminated(run_id)
    project = project_run(client)
    if project is not None:
        tag_run(client, project.info.run_id, {f"rlready.repeats_run.{id_[:12]}": run_id})
    return StoredOutcome(outcome_id=id_, model_id=model_id, run_id=run_id, is_new=False)


def _link(client: MlflowClient, run: Run, model_id: str, rl_model_id: str | None) -> None:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    outputs = {o.model_id for o in run.outputs.model_outputs} if run.outputs else set()
    if rl_model_id is not None and rl_model_id not in outputs:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(rl_model_id, step=0)])
    client.log_inputs(run.info.run_id, models=[LoggedModelInput(model_id)])
