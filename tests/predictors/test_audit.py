"""Frozen predictions are judged by outcomes that came later, and by nothing else."""

from __future__ import annotations

import json
import re
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


def test_why_no_regret_is_judged_is_said() -> None:
    standings = [
        replace(row(n, 0.5), predicted=None, low=None, high=None, standing=0.1 * n, group=group)
        for n, group in enumerate("aabb", start=1)
    ]
    known = {id_of(1): 0.5, id_of(2): 0.6}
    for made, outcomes, why in (
        (frozen(standings), known, "inside each of 2 groups.*no choice"),
        (frozen(ROWS), known, "it proposed no checkpoint"),
        (frozen(ROWS, chosen=[3]), known, "no checkpoint of its choice has an outcome yet"),
        (frozen(ROWS, chosen=[1, 2]), known, "only checkpoints of its choice have an outcome"),
        (frozen(ROWS, chosen=[1, 3]), known, "^$"),
    ):
        score = audit(made, outcomes)
        assert (score.regret is None) == (why != "^$")
        assert re.search(why, score.no_regret)
    together = newest_before([frozen(standings)], known)
    assert together is not None
    assert "no common choice" in audit(together, known).no_regret


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


def standing(number: int, value: float, **changes: object) -> FrozenRow:
    """A row whose order is predicted, and not its score."""
    changes = {"standing": value, "predicted": None, "low": None, "high": None, **changes}
    return replace(row(number, 0.0), **changes)  # type: ignore[arg-type]


ORDER = [standing(1, 1.0, practice=0.1), standing(2, 0.2), standing(3, -1.2, practice=0.9)]
CHANCES = ((0, 1, 0.7), (0, 2, 0.8), (1, 2, 0.6))


def test_an_order_without_scores_is_judged_by_order_chances_and_regret() -> None:
    """Before the first outcome there is no unit, so no score is predicted."""
    outcomes = {id_of(1): 0.5, id_of(2): 0.6, id_of(3): 0.3}
    score = audit(frozen(ORDER, chosen=[1], chances=CHANCES), outcomes)
    assert (score.n_judged, score.n_with_score) == (3, 0)
    assert score.coverage is score.bias is score.bias_se is None
    assert score.spearman == pytest.approx(0.5)
    assert score.pairs_right == pytest.approx(2 / 3)
    assert score.n_chances == 3
    assert score.chances_claimed == pytest.approx(0.7)
    assert score.chances_right == pytest.approx(2 / 3)
    assert score.brier == pytest.approx((0.7**2 + 0.2**2 + 0.4**2) / 3)
    assert score.regret == pytest.approx(0.1)
    assert score.practice_regret == pytest.approx(0.3)


def test_lower_outcomes_turn_the_judgement_of_chances() -> None:
    outcomes = {id_of(1): -0.5, id_of(2): -0.6, id_of(3): -0.3}
    turned = frozen(ORDER, chosen=[1], chances=CHANCES, lower_is_better=True)
    straight = frozen(ORDER, chosen=[1], chances=CHANCES)
    one, two = audit(turned, outcomes), audit(straight, {k: -v for k, v in outcomes.items()})
    assert vars(one) == vars(two)


def test_a_tie_is_half_right() -> None:
    score = audit(frozen(ORDER, chances=CHANCES[:1]), {id_of(1): 0.5, id_of(2): 0.5})
    assert score.chances_right == 0.5
    assert score.brier == pytest.approx(0.2**2)
    even = audit(frozen(ORDER, chances=[(0, 1, 0.5)]), {id_of(1): 0.5, id_of(2): 0.1})
    assert even.chances_right == 0.5


def test_the_last_chance_of_each_pair_counts_whichever_way_it_is_written() -> None:
    early = frozen(ORDER, chances=CHANCES)
    later = frozen([*ORDER[:2], replace(ORDER[2], had_outcome=True)], chances=[(1, 0, 0.9)])
    outcomes = {id_of(1): 0.5, id_of(2): 0.6, id_of(3): 0.3}
    together = newest_before([early, later], outcomes)
    assert together is not None
    assert sorted(together.chances) == [(0, 2, 0.8), (1, 0, 0.9), (1, 2, 0.6)]
    assert audit(together, outcomes).n_chances == 3


def test_an_order_and_a_score_are_not_compared() -> None:
    """Three rows of one group with scores, three with standings: no pair across the two."""
    scores = [row(4, 0.1), row(5, 0.2), row(6, 0.3)]
    outcomes = {id_of(n): 0.1 * n for n in range(1, 7)}
    score = audit(frozen([*ORDER, *scores]), outcomes)
    # The standings are all wrong, the scores are all right.
    assert score.pairs_right == pytest.approx(0.5)
    assert score.n_with_score == 3


@pytest.mark.parametrize("chances", [CHANCES, ()])
def test_a_record_of_an_order_is_read_back(chances: tuple[tuple[int, int, float], ...]) -> None:
    one = frozen(ORDER, chances=chances)
    assert one.to_dict()["format"] == 2
    assert FrozenPrediction.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_records_of_scores_keep_their_digests() -> None:
    """The digest of a record that was frozen before orders could be."""
    assert frozen(ROWS).to_dict()["format"] == 1
    assert frozen(ROWS, chosen=[3]).digest == "4f31ec88fb0f8adb337a736b65107a78"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: frozen([]),
        lambda: frozen([ROWS[0], ROWS[0]]),
        lambda: frozen(ROWS, chosen=[9]),
        lambda: row(1, float("nan")),
        lambda: row(1, 0.5, low=0.7, high=0.6),
        lambda: FrozenPrediction.from_dict({}),
        lambda: row(1, 0.5, low=None),
        lambda: row(1, 0.5, low=None, high=None),
        lambda: replace(row(1, 0.5), predicted=None, low=None, high=None),
        lambda: standing(1, float("inf")),
        lambda: frozen(ORDER, chances=[(0, 3, 0.5)]),
        lambda: frozen(ORDER, chances=[(-1, 1, 0.5)]),
        lambda: frozen(ORDER, chances=[(1, 1, 0.5)]),
        lambda: frozen(ORDER, chances=[(0, 1, 1.1)]),
        lambda: frozen(ORDER, chances=[(0, 1, float("nan"))]),
        lambda: frozen([ORDER[0], replace(ORDER[1], had_outcome=True)], chances=[(0, 1, 0.5)]),
        lambda: FrozenPrediction.from_dict({**frozen(ROWS).to_dict(), "format": 4}),
        lambda: FrozenPrediction.from_dict({**frozen(ROWS).to_dict(), "chances": [1]}),
        lambda: FrozenPrediction.from_dict({**frozen(ROWS).to_dict(), "more": 1}),
    ],
)
def test_invalid_records_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(RecordError):
        wrong()
