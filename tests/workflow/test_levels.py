"""`--levels`: whether the level of a proxy means the same in all groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from simulation import World, simulate

from rlready.predictors.models.catalogue import DEFAULT_MODEL, make_model
from rlready.predictors.training_table import COMPARABLE, GROUP, UNKNOWN, TrainingTable
from rlready.registry.errors import ConfigError
from rlready.workflow.cli.main import main
from rlready.workflow.predict.registry_table import AUTO, with_levels


@pytest.fixture(scope="module")
def table() -> TrainingTable:
    return simulate(4, 6, np.random.default_rng(0), World(level=0.9)).table


def versions(table: TrainingTable) -> dict[str, str]:
    return {column.name: "content a, protocol b, evaluator 1" for column in table.columns}


def test_the_registry_knows_that_all_groups_measured_alike(table: TrainingTable) -> None:
    found = with_levels(table, AUTO, versions(table))
    assert found.levels == COMPARABLE
    assert "--levels unknown" in found.notes[-1]


def test_it_does_not_of_a_file_one_group_or_a_proxy_that_a_group_lacks(
    table: TrainingTable,
) -> None:
    assert with_levels(table, AUTO, {}).levels == UNKNOWN
    known = versions(table)
    one = replace(table, X=table.X.assign(**{GROUP: "a"}))
    assert with_levels(one, AUTO, known).levels == UNKNOWN
    name = table.columns[0].name
    X = table.X.copy()
    X.loc[X[GROUP] == table.groups[0], name] = np.nan
    assert with_levels(replace(table, X=X), AUTO, known).levels == UNKNOWN
    del known[name]
    assert with_levels(table, AUTO, known).levels == UNKNOWN


def test_a_group_without_outcomes_decides_nothing(table: TrainingTable) -> None:
    X, y = table.X.copy(), table.y.copy()
    last = table.groups == table.groups[-1]
    X.loc[last, table.columns[0].name], y[last] = np.nan, np.nan
    assert with_levels(replace(table, X=X, y=y), AUTO, versions(table)).levels == COMPARABLE


@pytest.mark.parametrize("levels", [COMPARABLE, UNKNOWN])
def test_the_user_has_the_last_word(table: TrainingTable, levels: str) -> None:
    assert with_levels(table, levels, versions(table)).levels == levels
    assert with_levels(table, levels, {}).levels == levels


def test_what_is_told_reaches_the_model_and_its_folds(table: TrainingTable) -> None:
    told, not_told = (
        make_model(DEFAULT_MODEL, table.columns, levels=levels).fit(table.X, table.y)
        for levels in (COMPARABLE, UNKNOWN)
    )
    assert told.group_sd_ < not_told.group_sd_
    with pytest.raises(ConfigError, match="no levels 'same'"):
        make_model(DEFAULT_MODEL, table.columns, levels="same").fit(table.X, table.y)


def test_validate_takes_the_flag_and_refuses_another_word(
    table: TrainingTable, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    table.X.assign(rl=table.y).to_csv(path, index=False)
    flags = ["validate", "--table", str(path), "--target", "rl", "--group", GROUP, "--json"]
    flags += ["--features", "pass_at_1@sim,heldout_nll@sim", "--splits", "group"]
    scores = {}
    for levels in (COMPARABLE, UNKNOWN, AUTO):
        done = CliRunner().invoke(main, [*flags, "--levels", levels])
        assert done.exit_code == 0, done.output
        scores[levels] = json.loads(done.stdout)["group"][DEFAULT_MODEL]["r2"]["value"]
    assert scores[AUTO] == scores[UNKNOWN] != scores[COMPARABLE]
    refused = CliRunner().invoke(main, [*flags, "--levels", "same"])
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
