"""A frozen prediction is stored once, read back as it was, and refused if it was changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlready.registry.errors import RecordError, StoreError
from rlready.registry.frozen_prediction import FrozenPrediction, FrozenRow
from rlready.registry.mlflow_store.frozen_predictions import FILE, frozen_predictions, put_frozen
from rlready.registry.mlflow_store.store import MlflowStore

ROW = FrozenRow(
    checkpoint_id="a" * 32,
    name="sft-3",
    group="base",
    predicted=0.6,
    low=0.5,
    high=0.7,
    practice=0.4,
    had_outcome=False,
)
FROZEN = FrozenPrediction(
    command="rank",
    at_ms=1_700_000_000_000,
    predictor="models:/grpo-predictor/1",
    target="value_at_budget/60steps@gsm8k",
    lower_is_better=False,
    level=0.9,
    table_digest="b" * 32,
    rows=(ROW,),
    chosen=("a" * 32,),
)


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    return MlflowStore(sqlite_uri)


def file_of(store: MlflowStore) -> Path:
    with store.opened("a test") as opened:
        (run,) = opened.client.search_runs([opened.experiment_id])
        folder = run.info.artifact_uri.removeprefix("file://")
    return Path(folder) / FILE


def test_what_is_frozen_is_read_back(store: MlflowStore) -> None:
    assert put_frozen(store, FROZEN)
    assert frozen_predictions(store) == [FROZEN]


def test_printed_chances_are_read_back_and_leave_other_records_as_they_are(
    store: MlflowStore,
) -> None:
    """The digests are those of the version before chances of single checkpoints."""
    ordered = replace(ROW, predicted=None, low=None, high=None, standing=0.4)
    order = replace(FROZEN, rows=(ordered,))
    assert (FROZEN.digest, order.digest) == (
        "25667ae57ffb77fb3e05ee1d9fc23983",
        "74eb2d0ca6fa06c86cc52869273bfe18",
    )
    printed = replace(ordered, p_best=0.7, p_match=0.8)
    made = replace(order, rows=(printed,), top_n=3)
    assert [each.to_dict()["format"] for each in (FROZEN, order, made)] == [1, 2, 3]
    assert put_frozen(store, made)
    assert frozen_predictions(store) == [made]
    with pytest.raises(RecordError, match="a chance of sft-3 is not between 0 and 1"):
        replace(printed, p_top=1.2)


def test_the_same_prediction_keeps_its_first_date(store: MlflowStore) -> None:
    put_frozen(store, FROZEN)
    assert not put_frozen(store, replace(FROZEN, at_ms=FROZEN.at_ms + 5))
    assert [frozen.at_ms for frozen in frozen_predictions(store)] == [FROZEN.at_ms]


def test_another_prediction_is_another_record(store: MlflowStore) -> None:
    put_frozen(store, FROZEN)
    assert put_frozen(store, replace(FROZEN, command="plan", at_ms=FROZEN.at_ms - 1))
    assert [frozen.command for frozen in frozen_predictions(store)] == ["plan", "rank"]


@pytest.mark.parametrize("changes", [{"predicted": 0.61}, {"high": 0.9}, {"name": "other"}])
def test_a_changed_row_is_refused(store: MlflowStore, changes: dict[str, object]) -> None:
    put_frozen(store, FROZEN)
    path = file_of(store)
    record = json.loads(path.read_text())
    record["rows"][0] |= changes
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="was changed after it was made"):
        frozen_predictions(store)


def test_an_added_row_and_another_date_are_refused(store: MlflowStore) -> None:
    put_frozen(store, FROZEN)
    path = file_of(store)
    record = FROZEN.to_dict()
    added = {**record["rows"][0], "checkpoint_id": "c" * 32}
    for changed in (
        {**record, "rows": [*record["rows"], added]},
        {**record, "at_ms": record["at_ms"] - 86_400_000},
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(StoreError, match="was changed after it was made"):
            frozen_predictions(store)


def test_a_date_in_the_future_of_its_run_is_refused(store: MlflowStore) -> None:
    put_frozen(store, replace(FROZEN, at_ms=32_503_680_000_000))
    with pytest.raises(StoreError, match="made after its run began"):
        frozen_predictions(store)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}'])
def test_a_broken_file_is_explained(store: MlflowStore, text: str) -> None:
    put_frozen(store, FROZEN)
    file_of(store).write_text(text)
    with pytest.raises(StoreError, match="cannot be read"):
        frozen_predictions(store)


def test_a_killed_call_is_repeated(store: MlflowStore) -> None:
    put_frozen(store, FROZEN)
    with store.opened("a test", write=True) as opened:
        (run,) = opened.client.search_runs([opened.experiment_id])
        opened.client.update_run(run.info.run_id, status="RUNNING")
    assert frozen_predictions(store) == []
    assert put_frozen(store, FROZEN)
    assert frozen_predictions(store) == [FROZEN]
