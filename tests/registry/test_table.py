"""The table: one row a checkpoint, and no column in which numbers are mixed."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_child import AIME, GSM8K, PROTOCOL, a_checkpoint, a_proxy, an_evaluation, an_outcome

from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.outcomes import Outcome, conflicts, current
from rlready.registry.records import Evaluation, Proxy, Recipe
from rlready.registry.store import MemoryStore
from rlready.registry.table import (
    CheckpointTable,
    beside,
    checkpoint_table,
    table_bytes,
    write_table,
)

KEY = "value_at_budget/60steps@gsm8k"
OTHER = "d4" * 16


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    for number in (1, 2, 3):
        made.put_evaluation(an_evaluation(number, value=number / 10))
    return made


def the_table(store: MemoryStore, target: str | None = None) -> CheckpointTable:
    return checkpoint_table(store.checkpoints(), target)


def put_proxies(store: MemoryStore, number: int, *proxies: Proxy) -> None:
    store.put_evaluation(Evaluation(checkpoint=a_checkpoint(number), proxies=proxies))


def column(found: CheckpointTable, name: str) -> list[float | None]:
    return [None if pd.isna(value) else value for value in found.frame[name].tolist()]


def test_a_row_holds_facts_recipe_and_proxies(store: MemoryStore) -> None:
    frame = the_table(store).frame
    assert frame["checkpoint_id"].tolist() == [a_checkpoint(n).id for n in (1, 2, 3)]
    row = frame.iloc[1]
    assert (row["name"], row["kind"], row["step"]) == ("Qwen2.5-0.5B-step2", "sft", 2)
    assert (row["recipe.base_model"], row["recipe.sources.numina"]) == ("Qwen2.5-0.5B", 1.0)
    assert [row[f"pass_at_64{part}@gsm8k"] for part in ("", "_se", "_n")] == [0.2, 0.03, 200]
    assert row["heldout_nll@gsm8k"] == 1.25
    assert math.isnan(row["heldout_nll_se@gsm8k"])
    assert not the_table(store).notes


def test_parents_are_named(store: MemoryStore) -> None:
    parents = (a_checkpoint(1).id, a_checkpoint(2).id)
    child = a_checkpoint(4, kind="rl", parents=parents)
    store.put_evaluation(an_evaluation(checkpoint=child))
    assert the_table(store).frame["parents"].tolist() == ["", "", "", ",".join(parents)]


def test_recipes_of_odd_values_still_make_columns(store: MemoryStore) -> None:
    for number, extra in (
        (4, {"noise": 0.1, "tags": ["a", 1], "filter": {"min": 2}}),
        (5, {"noise": "none", "packed": True}),
    ):
        recipe = Recipe(extra=extra)
        store.put_evaluation(an_evaluation(checkpoint=a_checkpoint(number, recipe=recipe)))
    found = the_table(store)
    assert column(found, "recipe.noise") == [None, None, None, "0.1", "none"]
    assert column(found, "recipe.tags")[3] == '["a", 1]'
    assert column(found, "recipe.filter.min")[3] == 2
    assert column(found, "recipe.packed")[4] is True
    for kind in ("csv", "parquet", "json"):
        assert table_bytes(found, kind)


def test_an_outcome_is_the_mean_over_its_rl_seeds(store: MemoryStore) -> None:
    for seed, value in ((0, 0.5), (1, 0.7)):
        store.put_outcome(an_outcome(1, seed=seed, value=value, se=0.02))
    store.put_outcome(an_outcome(2, value=0.4, se=0.02))
    store.put_outcome(an_outcome(3, value=0.3, se=None))
    found = the_table(store)
    assert found.outcome_keys == (KEY,)
    assert column(found, KEY) == [pytest.approx(0.6), 0.4, 0.3]
    assert column(found, beside(KEY, "n")) == [2, 1, 1]
    # The spread of two seeds, 0.2 apart: sd 0.141 over the root of 2.
    assert column(found, beside(KEY, "se")) == [pytest.approx(0.1), 0.02, None]


def test_equal_seeds_do_not_make_an_outcome_exact(store: MemoryStore) -> None:
    for seed in (0, 1):
        store.put_outcome(an_outcome(1, seed=seed, value=0.5, se=0.02))
    assert column(the_table(store), beside(KEY, "se"))[0] == 0.02


def test_a_conflict_is_flagged_and_never_averaged(store: MemoryStore) -> None:
    for value in (0.5, 0.7):
        store.put_outcome(an_outcome(1, value=value))
    store.put_outcome(an_outcome(1, seed=1, value=0.6))
    store.put_outcome(an_outcome(2))
    found = the_table(store)
    assert column(found, KEY) == [None, 0.6, None]
    assert found.frame["conflicts"].tolist() == [KEY, "", ""]
    assert any("conflict" in note and "0.5" in note and "0.7" in note for note in found.notes)
    assert the_table(store, KEY).frame["checkpoint_id"].tolist() == [a_checkpoint(2).id]


def test_a_correction_ends_a_conflict(store: MemoryStore) -> None:
    wrong = an_outcome(1, value=0.9)
    for outcome in (wrong, an_outcome(1, value=0.5)):
        store.put_outcome(outcome)
    assert len(conflicts(store.checkpoints()[0].outcomes)) == 1
    store.put_outcome(an_outcome(1, value=0.5, replaces=wrong.id))
    found = the_table(store)
    assert column(found, KEY) == [0.5, None, None]
    assert "conflicts" not in found.frame
    assert len(store.checkpoints()[0].outcomes) == 3


def test_an_outcome_put_with_another_error_is_no_conflict(store: MemoryStore) -> None:
    for se in (0.02, 0.03):
        store.put_outcome(an_outcome(1, se=se))
    found = the_table(store)
    assert column(found, KEY)[0] == 0.6
    assert column(found, beside(KEY, "n"))[0] == 1
    assert column(found, beside(KEY, "se"))[0] == 0.03


@pytest.mark.parametrize(
    "changes",
    [
        {"rl_recipe": {"group_size": 16}},
        {"algorithm": "dapo"},
        {"benchmark_digest": OTHER},
        {"protocol_digest": OTHER},
        {"evaluator_version": "2"},
    ],
)
def test_another_rl_or_measurement_stands_in_a_column_of_its_own(
    store: MemoryStore, changes: dict[str, Any]
) -> None:
    for number in (1, 2):
        store.put_outcome(an_outcome(number))
    store.put_outcome(an_outcome(3, value=0.9, **changes))
    found = the_table(store)
    (other,) = set(found.outcome_keys) - {KEY}
    assert other.startswith(f"{KEY}#")
    assert len(other) == len(KEY) + 7
    assert column(found, KEY) == [0.6, 0.6, None]
    assert column(found, other) == [None, None, 0.9]
    (note,) = found.notes
    assert other[-7:] in note
    assert the_table(store, other).frame["target"].tolist() == [0.9]


def test_plain_columns_of_several_budgets_come_from_the_same_rl(store: MemoryStore) -> None:
    for number in (1, 2):
        store.put_outcome(an_outcome(number))
    store.put_outcome(an_outcome(3, budget=120, algorithm="dapo"))
    plain, other = the_table(store).outcome_keys
    assert plain == KEY
    assert other.startswith("value_at_budget/120steps@gsm8k#")


def test_a_curve_without_digests_does_not_lose_its_plain_column(store: MemoryStore) -> None:
    store.put_outcome(an_outcome(1, benchmark_digest=GSM8K, protocol_digest=PROTOCOL))
    store.put_outcome(an_outcome(1, statistic="peak"))
    assert the_table(store).outcome_keys == ("peak/60steps@gsm8k", KEY)


def test_protocols_never_share_a_column(store: MemoryStore) -> None:
    put_proxies(store, 1, *(a_proxy(name=n, value=0.9, protocol_digest=OTHER) for n in "ab"))
    put_proxies(store, 1, a_proxy(value=0.8, protocol_digest=OTHER))
    found = the_table(store)
    mark = digest([GSM8K, OTHER])[:6]
    assert column(found, "pass_at_64@gsm8k") == [0.1, 0.2, 0.3]
    assert column(found, f"pass_at_64@gsm8k#{mark}") == [0.8, None, None]
    assert column(found, f"pass_at_64_se@gsm8k#{mark}") == [0.03, None, None]
    # Measured in the rarer way alone, a proxy is marked like its neighbours.
    assert column(found, f"a@gsm8k#{mark}") == [0.9, None, None]
    assert "a@gsm8k" not in found.frame
    (note,) = found.notes
    assert f"@gsm8k#{mark}" in note
    assert OTHER[:12] in note
    assert "3 proxies" in note


def test_contents_of_one_name_never_share_a_column(store: MemoryStore) -> None:
    put_proxies(store, 4, a_proxy(value=0.9, benchmark_digest=AIME))
    found = the_table(store)
    mark = digest([AIME, PROTOCOL])[:6]
    assert column(found, "pass_at_64@gsm8k") == [0.1, 0.2, 0.3, None]
    assert column(found, f"pass_at_64@gsm8k#{mark}") == [None, None, None, 0.9]


def test_evaluator_versions_never_share_a_column(store: MemoryStore) -> None:
    put_proxies(store, 3, a_proxy(value=0.9, evaluator_version="2"))
    found = the_table(store)
    mark = digest([GSM8K, PROTOCOL, "2"])[:6]
    assert column(found, "pass_at_64@gsm8k") == [0.1, 0.2, None]
    assert column(found, f"pass_at_64@gsm8k#{mark}") == [None, None, 0.9]


def test_columns_say_how_their_numbers_were_measured(store: MemoryStore) -> None:
    store.put_outcome(an_outcome(1))
    before = the_table(store, KEY).versions
    assert (
        before["pass_at_64@gsm8k"]
        == f"benchmark {GSM8K[:16]}, protocol {PROTOCOL[:16]}, evaluator 1"
    )
    assert before["heldout_nll@gsm8k"] == f"benchmark {GSM8K[:16]}, evaluator 1"
    assert before[KEY] == f"RL {an_outcome(1).rl_digest[:16]}"
    for number in (1, 2, 3):
        put_proxies(store, number, a_proxy(protocol_digest=OTHER))
        put_proxies(store, number, a_proxy(evaluator_version="2"))
    after = the_table(store, KEY).versions
    assert after["pass_at_64@gsm8k"] != before["pass_at_64@gsm8k"]
    assert sorted(name.partition("#")[0] for name in after if "64" in name) == [
        "pass_at_64@gsm8k",
        "pass_at_64@gsm8k",
    ]


def test_names_of_columns_do_not_depend_on_the_order_of_checkpoints(store: MemoryStore) -> None:
    put_proxies(store, 4, a_proxy(value=0.9, protocol_digest=OTHER))
    put_proxies(store, 5, a_proxy(value=0.9, benchmark_digest=AIME))
    stored = store.checkpoints()
    assert set(checkpoint_table(stored).frame) == set(checkpoint_table(stored[::-1]).frame)


def test_an_error_gives_way_to_a_proxy_of_its_name(store: MemoryStore) -> None:
    put_proxies(store, 1, a_proxy(name="loss", value=1.0), a_proxy(name="loss_se", value=2.0))
    assert column(the_table(store), "loss_se@gsm8k")[0] == 2.0


def test_the_target_takes_its_own_column_and_drops_rows_without_it(store: MemoryStore) -> None:
    for number in (1, 3):
        store.put_outcome(an_outcome(number, value=number / 10))
    found = the_table(store, KEY)
    assert found.frame["target"].tolist() == [0.1, 0.3]
    assert found.frame["target_se"].tolist() == [0.02, 0.02]
    assert found.frame["checkpoint_id"].tolist() == [a_checkpoint(n).id for n in (1, 3)]
    assert KEY not in found.frame
    assert found.notes == (f"left out, as they have no {KEY}: 1 checkpoint",)


def test_an_unknown_target_lists_the_known_ones(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="none yet"):
        the_table(store, "x")
    store.put_outcome(an_outcome(1))
    with pytest.raises(ConfigError, match=f"no outcome 'x'.*{KEY}"):
        the_table(store, "x")


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_every_format_holds_the_same_table(store: MemoryStore, kind: str) -> None:
    store.put_outcome(an_outcome(2, value=1 / 3))
    found = the_table(store)
    content = io.BytesIO(table_bytes(found, kind))
    if kind == "json":
        read = pd.DataFrame(json.load(content))
    else:
        as_text = {"checkpoint_id": str}  # these ids have no letters
        csv = kind == "csv"
        read = pd.read_csv(content, dtype=as_text) if csv else pd.read_parquet(content)
    assert read.columns.tolist() == found.frame.columns.tolist()
    for name in found.frame:
        ours, theirs = (f[name].tolist() for f in (found.frame, read))
        assert all(
            a == b or (pd.isna(b) and (pd.isna(a) or a == ""))
            for a, b in zip(ours, theirs, strict=True)
        ), name


def test_an_empty_registry_is_a_table_without_rows() -> None:
    found = the_table(MemoryStore())
    assert found.frame.columns.tolist() == ["checkpoint_id", "name", "kind", "step", "parents"]
    for kind in ("csv", "parquet", "json"):
        assert table_bytes(found, kind)


def test_a_file_is_written_whole_or_told(store: MemoryStore, tmp_path: Path) -> None:
    write_table(the_table(store), tmp_path / "t.csv", "csv")
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(ConfigError, match="cannot write"):
        write_table(the_table(store), tmp_path / "none" / "t.csv", "csv")


VALUES = st.floats(-1e6, 1e6)
SMALL = st.builds(
    an_outcome,
    st.integers(1, 3),
    seed=st.none() | st.integers(0, 2),
    value=st.sampled_from([0.1, 0.2]),
    algorithm=st.sampled_from(["grpo", "dapo"]),
    budget=st.sampled_from([30, 60]),
    benchmark_digest=st.sampled_from([None, GSM8K]),
)


@given(outcomes=st.lists(SMALL, max_size=12, unique_by=lambda o: o.id))
@settings(max_examples=50)
def test_every_outcome_is_in_a_column_or_flagged(outcomes: list[Outcome]) -> None:
    """Nothing is lost: the seeds counted and those in flagged cells are all that were put."""
    store = MemoryStore()
    for number in (1, 2, 3):
        store.put_evaluation(an_evaluation(number))
    for outcome in outcomes:
        store.put_outcome(outcome)
    found = the_table(store)
    counted = sum(
        value
        for key in found.outcome_keys
        for value in column(found, beside(key, "n"))
        if value is not None
    )
    disputed = {
        dataclasses.replace(o, value=0, seed=None).id
        for entry in store.checkpoints()
        for conflict in conflicts(entry.outcomes)
        for o in conflict.outcomes
    }
    cells = [(o, dataclasses.replace(o, value=0, seed=None).id) for o in outcomes]
    assert counted == len({(cell, o.seed) for o, cell in cells if cell not in disputed})
    flagged = found.frame.get("conflicts", pd.Series([""] * 3)).tolist()
    assert sum(len(text.split(",")) for text in flagged if text) == len(disputed)


@given(values=st.lists(VALUES, min_size=1, max_size=5))
@settings(max_examples=50)
def test_the_mean_over_seeds_lies_among_them(values: list[float]) -> None:
    store = MemoryStore()
    store.put_evaluation(an_evaluation(1))
    for seed, value in enumerate(values):
        store.put_outcome(an_outcome(1, seed=seed, value=value))
    (mean,) = the_table(store).frame[KEY]
    (se,) = the_table(store).frame[beside(KEY, "se")]
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6
    assert se >= 0.02 * (1 - 1e-9)


def test_current_outcomes_are_those_that_none_replaces() -> None:
    first = an_outcome(value=0.1)
    second = an_outcome(value=0.2, replaces=first.id)
    third = an_outcome(value=0.3, replaces=second.id)
    assert current([first, second, third]) == [third]
    assert conflicts([first, second, third]) == []
