"""The quick first look at a study sees what Optuna's own sees."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from rlready.workflow.search.leases import open_storage


def facts(trial: FrozenTrial) -> dict[str, str]:
    """All of a trial as texts, in which NaN equals NaN; Optuna gives steps in no order."""
    found = {key: repr(value) for key, value in vars(trial).items()}
    for key in ("_intermediate_values", "intermediate_values"):
        if key in found:
            found[key] = repr(sorted(trial.intermediate_values.items()))
    return found


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_a_quick_look_sees_what_optuna_sees(tmp_path: Path, directions: list[str]) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = open_storage(url)
    optuna.create_study(study_name="other", storage=storage).ask()
    study = optuna.create_study(study_name="s", storage=storage, directions=directions)
    laws = {
        "z": FloatDistribution(1e-6, 1.0, log=True),
        "a": IntDistribution(1, 9),
        "c": CategoricalDistribution(["none", True, 2, 0.5, None]),
    }
    study.ask()  # without parameters
    asked = study.ask(fixed_distributions=laws)
    asked.set_user_attr("rlready:recipe", {"sources": {"a": 0.5}, "note": "ü"})
    asked.set_constraint("repetitions:a", 0.5)
    study.ask(fixed_distributions=laws)
    study.tell(study.ask(fixed_distributions=laws), [0.5, math.inf][: len(directions)])
    study.tell(study.ask(), state=TrialState.FAIL)
    study.enqueue_trial({"z": 0.1})
    study.add_trial(
        create_trial(
            values=[-1e300, 2.0][: len(directions)],
            params={"z": 0.5, "a": 3, "c": True},
            distributions=laws,
            intermediate_values={0: 0.1, 7: math.nan, 2: -math.inf},
            constraints={"x": -1.0},
        )
    )
    quick, slow = open_storage(url), RDBStorage(url)
    seen, known = (
        quick._get_trials(study._study_id, None, set(), -1),
        slow.get_all_trials(study._study_id),
    )
    assert len(seen) == 7
    for one, other in zip(seen, known, strict=True):
        assert facts(one) == facts(other)
    assert [list(trial.params) for trial in seen] == [list(trial.params) for trial in known]
    assert seen[1].constraints == known[1].constraints
    for one in (storage, quick, slow):
        one.remove_session()
        one.engine.dispose()
