"""The testbed as a trainer of a search: real SFT, real GRPO, told values, and a clean registry."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from places import ROOT

from rlready.predictors.search.space_file import parse_space
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Checkpoint, Recipe
from rlready.testbed.study.recipes import choose_recipes, search_space
from rlready.testbed.study.run import Made
from rlready.testbed.training.sft import SftRecipe, examples_of
from rlready.testbed.world import skills
from rlready.testbed.world.skills import MIXES, draw_different
from rlready.workflow.cli.main import main
from rlready.workflow.testbed.trainer import _naming
from rlready.workflow.testbed.trainer import main as trainer

TARGET = "value_at_budget/8steps@world_after"


# ---------------------------------------------------------------------- recipes


def test_a_record_gives_the_recipe_that_it_came_from() -> None:
    for recipe in choose_recipes(48):
        assert SftRecipe.from_record(recipe.record("base")) == recipe
    own = SftRecipe(budget=1600, n_unique=253, mix={"add2": 0.25, "count4": 0.75}, noise=0.1)
    assert SftRecipe.from_record(own.record("base")) == own


@pytest.mark.parametrize("name", list(MIXES))
def test_a_mixture_gives_the_same_examples_by_its_name_and_by_its_shares(name: str) -> None:
    named = SftRecipe(budget=60, n_unique=60, mix=name)
    assert examples_of(named) == examples_of(SftRecipe(budget=60, n_unique=60, mix=MIXES[name]))


def test_recipes_that_differ_in_their_shares_have_other_ids() -> None:
    ids = {SftRecipe(mix={"add2": share, "add3": 1 - share}).id for share in (0.25, 0.2500001)}
    assert len(ids) == 2
    assert SftRecipe(mix={"add3": 0.5, "add2": 0.5, "count3": 0.0}) == SftRecipe(
        mix={"add2": 0.5, "add3": 0.5}
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": {"gsm8k": 1.0}}, "names gsm8k"),
        ({"n_unique": None}, "no n_unique"),
        ({"schedule": "constant"}, "schedule is 'constant'"),
        ({"batch_size": 8}, "batch_size is 8"),
        ({"extra": {"length_filter": "0-100"}}, "no length_filter"),
        ({"extra": {"budget": 100}}, "budget of 100"),
        ({"extra": {"style": "verse"}}, "verse"),
        ({"extra": {"noise": "much"}}, "noise is 'much'"),
    ],
)
def test_what_the_testbed_cannot_train_is_refused(changes: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {"sources": {"add2": 1.0}, "n_unique": 60, "epochs": 2.0, **changes}
    with pytest.raises(ConfigError, match=said):
        SftRecipe.from_record(Recipe(**values))


def test_a_skill_that_runs_out_of_problems_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search may ask for more of one skill than there is; it drew for ever."""
    monkeypatch.setattr(skills, "_OLD_IN_A_ROW", 2000)
    with pytest.raises(ConfigError, match=r"count3 has only 3\d\d different problems"):
        draw_different("count3", "test", 100_000, seed=0)


def test_the_space_holds_the_runs_of_its_budget_and_proposes_what_can_be_trained() -> None:
    space = parse_space(tomllib.loads(search_space(1600)))
    table = ROOT / "testbed" / "results" / "full.csv"
    with table.open(newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    for recipe in choose_recipes(48):
        assert recipe.id in names
        record = recipe.record("testbed-base")
        if recipe.budget == 1600:
            assert SftRecipe.from_record(space.recipe(space.points(record))) == recipe
        else:
            with pytest.raises(ConfigError, match=r"outside 40\.\.1600|trains on 6400 tokens"):
                space.points(record)


def test_the_registered_recipe_names_the_axes_of_the_search_at_their_default_too() -> None:
    """A run with the default length was left out of the next search: "it has no length"."""
    space = parse_space(tomllib.loads(SPACE + '[axes.length]\nchoices = ["mixed", "long"]\n'))
    asked = space.recipe(space.stratified())
    recipe = SftRecipe.from_record(dataclasses.replace(asked, extra={"length": "mixed"}))
    record = recipe.record("testbed-base")
    checkpoint = Checkpoint(uri="file:///x", fingerprint=digest("x"), name="x", recipe=record)
    made = Made(recipe=recipe, checkpoint=checkpoint, proxies=(), runs={})
    with pytest.raises(ConfigError, match="it has no length"):
        space.points(record)
    named = _naming(made, {"length": "mixed"}).checkpoint.recipe
    assert named is not None
    assert len(space.points(named)) == 1
    assert SftRecipe.from_record(named) == recipe


# ---------------------------------------------------------------------- the loop

SPACE = """
token_budget = 256
[recipe]
base_model = "testbed-base"
seed = 0
[sources.add2]
[sources.chain_easy]
[n_unique]
low = 64
high = 256
"""


def trained_by(testbed: Path, uri: str, *more: str) -> str:
    words = ["--recipe", "{recipe}", "--out", "{out}", "--testbed", str(testbed)]
    words += ["--profile", "smoke", "--tracking-uri", uri, *more]
    return " ".join([sys.executable, "-m", "rlready.workflow.testbed.trainer", *words])


@pytest.mark.slow
def test_a_search_trains_its_recipes_and_is_told_their_true_outcomes(
    tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    testbed = tmp_path / "bed"

    def search(space: str, *words: str) -> Result:
        (tmp_path / "mix.toml").write_text(space)
        flags = ["--space", "mix.toml", "--target", TARGET, "--tracking-uri", sqlite_uri, "--json"]
        return CliRunner().invoke(main, ["search", *words, *flags])

    # The registry has no outcome to begin with: the first study starts cold, and by another name.
    command = trained_by(testbed, sqlite_uri, "--rl", "1")
    space = tmp_path / "first.toml"
    space.write_text(SPACE)
    words = ["search", "ask", "--space", "first.toml", "--cold", "--json"]
    (asked,) = json.loads(CliRunner().invoke(main, words).stdout)["trials"]
    flags = ["--recipe", f"{asked['folder']}/recipe.toml", "--out", asked["folder"]]
    flags += ["--testbed", str(testbed), "--profile", "smoke", "--tracking-uri", sqlite_uri]
    made = CliRunner().invoke(trainer, [*flags, "--rl", "1", "--json"])
    assert made.exit_code == 0, made.output
    first = json.loads(made.stdout)

    done = search(SPACE, "run", "--trials", "2", "--sampler", "random", "--train-command", command)
    assert done.exit_code == 0, done.output
    store = MlflowStore(sqlite_uri, "rlready")
    outcomes = {
        one.checkpoint.id: [o.value for o in one.outcomes if o.key == TARGET]
        for one in store.checkpoints()
        if one.checkpoint.kind == "sft"
    }
    told = json.loads(done.stdout)["trials"]
    assert [one["state"] for one in told] == ["told", "told"]
    for one in told:
        assert outcomes[one["checkpoint"]] == [pytest.approx(one["value"])]
    assert outcomes[first["checkpoint"]] == [pytest.approx(first["after_rl"]["0"])]

    failed = search(
        SPACE + "[axes.dropout]\nlow = 0.0\nhigh = 0.5\n",
        *("run", "--study", "other", "--train-command", command),
    )
    assert failed.exit_code == 2
    (trial,) = json.loads(failed.stdout)["trials"]
    assert trial["state"] == "failed"
    assert "the testbed has no dropout" in trial["reason"]
    assert len(store.checkpoints()) == 1 + 2 * len(outcomes)  # base, and each after SFT and RL
    assert {path.name for path in (testbed / "sft").iterdir()} == {
        one.checkpoint.name for one in store.checkpoints() if one.checkpoint.kind == "sft"
    }


def test_a_folder_of_another_profile_is_left_alone(tmp_path: Path, sqlite_uri: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("n_unique = 64\n[sources]\nadd2 = 1.0\n")
    from rlready.testbed.study.design import make_design, write_design

    write_design(tmp_path / "bed", make_design("smoke", 0, 1))
    flags = ["--recipe", str(recipe), "--out", str(tmp_path), "--testbed", str(tmp_path / "bed")]
    flags += ["--tracking-uri", sqlite_uri]
    result = CliRunner().invoke(trainer, [*flags, "--profile", "small"])
    assert result.exit_code == 2
    assert "holds a run of profile smoke, small is asked for" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "status.json").exists()
