"""What a study keeps of its ladder: each trial's rungs, what they cost, and the registry's own.

A rung's value is an intermediate value of Optuna's trial, at the rung's place in the ladder as its
step, so that optuna-dashboard shows it. Beside it, as attributes of the trial:

    rlready:rung_errors     {rung: standard error}
    rlready:rung_hours      {rung: GPU-hours, as the trainer says}; else those of the space file
    rlready:gpu_hours       spent on the trial so far
    rlready:ladder          {rung: the decision after it}
    rlready:foreseen        (median outcome, sd), as of the last decision
    rlready:stopped         why it was stopped
    rlready:continues       number of the stopped trial that it goes on with

What the registry's checkpoints have of the rungs' proxies is an attribute of the study, written
whenever a search is opened with the registry: workers without it see it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.ladder import Climbs, Ladder, Rung
from rlready.predictors.search.ladder_file import read_ladder
from rlready.predictors.search.study import current, is_predicted
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from rlready.registry.store import Store

RUNG_ERRORS, RUNG_HOURS = "rlready:rung_errors", "rlready:rung_hours"
GPU_HOURS, DECISIONS = "rlready:gpu_hours", "rlready:ladder"
FORESEEN, STOPPED, CONTINUES = "rlready:foreseen", "rlready:stopped", "rlready:continues"
_OF_STUDY, _OF_REGISTRY = "rlready:ladder", "rlready:registry_rungs"


def ladder_of(study: Study, space_file: Path, store: Store | None) -> Ladder | None:
    """The ladder of a space file, if it has one, known to the study from now on.

    Args:
        study: that climbs it.
        space_file: TOML.
        store: the registry, if it is asked.

    Raises:
        ConfigError: if the study's trials climb another ladder, or it has a second objective.
    """
    ladder = read_ladder(space_file)
    if ladder is None:
        return None
    if len(study.directions) > 1:
        raise ConfigError(
            "the space file has a ladder and a cost",
            why="who goes on is decided by one outcome; what trials cost is kept all the same",
            fix="Leave one of them out",
        )
    kept = study.user_attrs.get(_OF_STUDY)
    if kept is None:
        study.set_user_attr(_OF_STUDY, list(ladder.names))
    elif kept != list(ladder.names):
        raise ConfigError(
            f"study {study.study_name!r} has a ladder of {', '.join(kept)}, "
            f"not of {', '.join(ladder.names)}",
            why="its trials' values are kept by their rungs",
            fix="Give the study another name; costs and promote_at may be changed",
        )
    if store is not None:
        found = _of_registry(ladder, store, _runs(study))
        if found != study.user_attrs.get(_OF_REGISTRY, {}):
            study.set_user_attr(_OF_REGISTRY, found)
    return ladder


def proxy_of(store: Store, checkpoint_id: str, proxy: str) -> tuple[float, float | None]:
    """Value and standard error of a checkpoint's proxy.

    Raises:
        ConfigError: if it has none.
    """
    found = _proxies(store, [proxy], {checkpoint_id}).get(checkpoint_id, {})
    if proxy not in found:
        raise ConfigError(
            f"checkpoint {checkpoint_id[:12]} has no {proxy} in the registry",
            fix="Evaluate it, or give the rung's value in status.json",
        )
    value, se = found[proxy]
    return value, se


def climbs_of(study: Study, ladder: Ladder) -> tuple[Climbs, list[FrozenTrial]]:
    """What all trials of a study have, and the trials; those without any value are left out."""
    from optuna.trial import TrialState

    registry = study.user_attrs.get(_OF_REGISTRY, {})
    trials, rows, is_open = [], [], []
    for trial in standing(study.get_trials(deepcopy=False)):
        if trial.state == TrialState.PRUNED and STOPPED not in trial.user_attrs:
            continue  # it broke a limit of the space
        row = _row(trial, ladder, registry.get(trial.user_attrs.get("rlready:run"), {}))
        if np.isfinite(row[0]).any():
            trials.append(trial)
            rows.append(row)
            is_open.append(trial.state in (TrialState.RUNNING, TrialState.PRUNED))
    both = np.array(rows, dtype=np.float64).reshape(len(rows), 2, len(ladder.rungs))
    found = Climbs(values=both[:, 0], errors=both[:, 1], is_open=np.array(is_open, dtype=bool))
    return found, trials


def next_rung(trial: FrozenTrial, ladder: Ladder) -> Rung:
    """The rung that a trial climbs next."""
    last = max(trial.intermediate_values, default=-1)
    return ladder.rungs[min(last + 1, len(ladder.rungs) - 1)]


def spent_hours(trial: FrozenTrial, ladder: Ladder, *, is_told: bool = False) -> float:
    """GPU-hours of the rungs that a trial has climbed; all of them if it is told."""
    said = trial.user_attrs.get(RUNG_HOURS, {})
    climbed = set(trial.intermediate_values) | ({len(ladder.rungs) - 1} if is_told else set())
    rungs = [ladder.rungs[step] for step in sorted(climbed)]
    return float(sum(said.get(rung.name, rung.gpu_hours) for rung in rungs))


def total_hours(trials: Sequence[FrozenTrial]) -> float | None:
    """GPU-hours of all trials, those once that went on as another; None without a ladder."""
    spent = [t.user_attrs[GPU_HOURS] for t in standing(trials) if GPU_HOURS in t.user_attrs]
    return float(sum(spent)) if spent else None


def stopped_trials(
    trials: Sequence[FrozenTrial], names: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """What is known of each stopped trial, the most promising first.

    Args:
        trials: of the study.
        names: of the ladder's rungs.
    """
    found = []
    for trial in standing(trials):
        if STOPPED not in trial.user_attrs or trial.state.name != "PRUNED":
            continue
        kept, step = trial.user_attrs, max(trial.intermediate_values)
        median, sd = kept[FORESEEN]
        found.append(
            {
                "trial": trial.number,
                "recipe": kept.get("rlready:recipe", {}),
                "rungs": {names[at]: value for at, value in trial.intermediate_values.items()},
                "p_top": kept[DECISIONS][names[step]]["p_top"],
                "foreseen": median,
                "foreseen_sd": sd,
                "gpu_hours": kept[GPU_HOURS],
                "reason": kept[STOPPED],
            }
        )
    return tuple(sorted(found, key=lambda one: -one["p_top"]))


def ladder_names(study: Study) -> tuple[str, ...]:
    """The rungs of a study's ladder; none without one."""
    return tuple(study.user_attrs.get(_OF_STUDY, ()))


def standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that stand for themselves: no other goes on with them or has taken their place."""
    late = {trial.user_attrs.get("rlready:late") for trial in trials}
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [
        trial
        for trial in current(trials)
        if trial.number not in continued and f"rlready:late:{trial.number}" not in late
    ]


def _row(
    trial: FrozenTrial, ladder: Ladder, of_registry: Mapping[str, Sequence[float | None]]
) -> tuple[list[float], list[float]]:
    """Values and errors at each rung; NaN where there is none."""
    from optuna.trial import TrialState

    said = trial.user_attrs.get(RUNG_ERRORS, {})
    values, errors = [], []
    for step, rung in enumerate(ladder.rungs):
        value = trial.intermediate_values.get(step)
        se = said.get(rung.name)
        if value is None and rung.name in of_registry:
            value, se = of_registry[rung.name]
        values.append(math.nan if value is None else value)
        errors.append(math.nan if se is None else se)
    # What a predictor says of a checkpoint follows from its proxies, and teaches nothing of them.
    is_circular = "rlready:run" in trial.user_attrs and is_predicted(trial)
    if trial.state == TrialState.COMPLETE and trial.values is not None and not is_circular:
        known = trial.user_attrs.get("rlready:errors") or [None]
        values[-1], errors[-1] = trial.values[0], math.nan if known[0] is None else known[0]
    return values, errors


def _runs(study: Study) -> set[str]:
    trials = study.get_trials(deepcopy=False)
    return {t.user_attrs["rlready:run"] for t in trials if "rlready:run" in t.user_attrs}


def _of_registry(
    ladder: Ladder, store: Store, ids: set[str]
) -> dict[str, dict[str, list[float | None]]]:
    """[value, standard error] of each rung, by name, of each checkpoint, by id."""
    rungs = [rung for rung in ladder.rungs if rung.proxy is not None]
    found = _proxies(store, [str(rung.proxy) for rung in rungs], ids)
    return {
        name: {rung.name: list(own[rung.proxy]) for rung in rungs if rung.proxy in own}
        for name, own in sorted(found.items())
    }


def _proxies(
    store: Store, columns: Sequence[str], ids: set[str]
) -> dict[str, dict[str | None, tuple[float, float | None]]]:
    from rlready.registry.table import beside, checkpoint_table

    stored = [one for one in store.checkpoints() if one.checkpoint.id in ids]
    if not stored or not columns:
        return {}
    frame = checkpoint_table(stored).frame
    found: dict[str, dict[str | None, tuple[float, float | None]]] = {}
    for row in frame.to_dict("records"):
        own = found.setdefault(str(row["checkpoint_id"]), {})
        for column in columns:
            value, se = _number(row.get(column)), _number(row.get(beside(column, "se")))
            if value is not None:
                own[column] = (value, se)
    return found


def _number(given: Any) -> float | None:
    return float(given) if isinstance(given, int | float) and math.isfinite(given) else None
