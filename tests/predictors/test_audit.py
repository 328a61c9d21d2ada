"""Frozen predictions are judged by outcomes that came later, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.predictors.decisions.audit import audit, newest_before
from rlready.registry.errors import RecordError
from rlready.registry.frozen_prediction import FrozenPrediction, FrozenRow


def id_of(number: int) -> str:
    return f"{number:032x}"


def row(
    number: int, predicted: float, practice: float | None = None, **changes: object
) -> FrozenRow:
    made = FrozenRow(
        checkpoint_id=id_of(number),
        name=f"c{number}",
        group="one",
        predicted=predicted,
        low=predicted - 0.1,
        high=predicted + 0.1,
        practice=practice,
        had_outcome=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def frozen(
    rows: Sequence[FrozenRow], chosen: Sequence[int] = (), **changes: object
) -> FrozenPrediction:
    made = FrozenPrediction(
        command="plan",
        at_ms=1,
        predictor="models:/p/1",
        target="y",
        lower_is_better=False,
        level=0.9,
        table_digest=id_of(0),
        rows=tuple(rows),
        chosen=tuple(map(id_of, chosen)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


ROWS = [row(1, 0.5, 0.9), row(2, 0.6, 0.2), row(3, 0.7, 0.3), row(4, 0.8, 0.1)]


def test_known_outcomes_give_known_scores() -> None:
    outcomes = {id_of(1): 0.55, id_of(2): 0.75, id_of(3): 0.72, id_of(9): 1.0}
    score = audit(frozen(ROWS, chosen=[3, 4]), outcomes)
    assert (score.n_predicted, score.n_judged) == (4, 3)
    assert score.coverage == pytest.approx(2 / 3)
    assert score.bias == pytest.approx((0.05 + 0.15 + 0.02) / 3)
    assert score.bias_se == pytest.approx(0.0680686 / 3**0.5, rel=1e-4)
    assert score.pairs_right == pytest.approx(2 / 3)
    assert score.spearman == pytest.approx(0.5)
    assert score.regret == pytest.approx(0.03)  # 2 was best; of 3 and 4 only 3 was trained
    assert score.practice_regret == pytest.approx(0.03)  # 1 and 3 by the score before RL
    assert (score.n_chosen_judged, score.n_practice_judged) == (1, 2)


def test_an_outcome_that_was_known_before_is_not_judged() -> None:
    rows = [*ROWS[:2], replace(ROWS[2], had_outcome=True)]
    score = audit(frozen(rows), {id_of(3): 0.0})
    assert score.n_judged == 0
    assert score.coverage is score.bias is score.bias_se is score.spearman is None


def test_a_lower_outcome_may_be_better() -> None:
    outcomes = {id_of(n): value for n, value in enumerate([0.5, 0.6, 0.7, 0.8], start=1)}
    better = frozen(ROWS, chosen=[1], lower_is_better=True)
    assert audit(better, outcomes).regret == pytest.approx(0.0)
    assert audit(replace(better, lower_is_better=False), outcomes).regret == pytest.approx(0.3)


def test_the_choice_of_an_untrained_checkpoint_has_no_regret() -> None:
    assert audit(frozen(ROWS, chosen=[4]), {id_of(1): 0.5}).regret is None


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.floats(-3, 3))
def test_a_shift_of_all_outcomes_moves_the_bias_alone(values: list[float], shift: float) -> None:
    rows = [row(n, 0.1 * n) for n in range(len(values))]
    before = audit(frozen(rows, [0]), {id_of(n): v for n, v in enumerate(values)})
    after = audit(frozen(rows, [0]), {id_of(n): v + shift for n, v in enumerate(values)})
    assert before.bias is not None
    assert after.bias == pytest.approx(before.bias + shift, abs=1e-9)
    assert after.regret == pytest.approx(before.regret, abs=1e-9)


def test_each_checkpoint_is_judged_by_its_last_prediction_without_outcome() -> None:
    first = frozen([row(1, 0.1), row(2, 0.2)])
    second = frozen([row(1, 0.3), row(2, 0.9, had_outcome=True)], at_ms=2)
    together = newest_before([first, second], {id_of(1): 0.3, id_of(2): 0.2})
    assert together is not None
    assert [(r.name, r.predicted) for r in together.rows] == [("c1", 0.3), ("c2", 0.2)]
    assert newest_before([first], {}) is None


def test_the_same_prediction_made_later_has_the_same_id_and_another_digest() -> None:
    one = frozen(ROWS)
    later = replace(one, at_ms=99)
    assert one.id == later.id
    assert one.digest != later.digest
    assert FrozenPrediction.from_dict(one.to_dict()) == one


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: frozen([]),
        lambda: frozen([ROWS[0], ROWS[0]]),
        lambda: frozen(ROWS, chosen=[9]),
        lambda: row(1, float("nan")),
        lambda: row(1, 0.5, low=0.7, high=0.6),
        lambda: FrozenPrediction.from_dict({}),
        lambda: FrozenPrediction.from_dict({**frozen(ROWS).to_dict(), "format": 2}),
        lambda: FrozenPrediction.from_dict({**frozen(ROWS).to_dict(), "more": 1}),
    ],
)
def test_invalid_records_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(RecordError):
        wrong()
