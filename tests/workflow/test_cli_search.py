"""`rlready search`: from a space to a ranking, with a trainer or by hand, and with a registry."""

from __future__ import annotations

import csv
import html
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, check_page
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.cli.main import main

SPACE = """
[recipe]
base_model = "org/base"
[sources.gsm8k]
[sources.numina]
floor = 0.1
[learning_rate]
low = 1e-6
high = 1e-4
"""
TRAINER = """
import json, pathlib, sys, tomllib
recipe, out = sys.argv[1:]
weight = tomllib.loads(pathlib.Path(recipe).read_text())["sources"]["gsm8k"]
path = pathlib.Path(out, "status.json")
path.write_text(json.dumps({**json.loads(path.read_text()), "value": 1 - (weight - 0.6) ** 2}))
"""

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls `rlready search` in a folder with a space and a trainer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix.toml").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAINER)

    def run(*words: Any) -> Result:
        return CliRunner().invoke(main, ["search", *map(str, words), "--space", "mix.toml"])

    return run


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_search_by_hand_ends_in_a_ranking_and_a_surface(call: Call, tmp_path: Path) -> None:
    asked = answer(call("ask", "--trials", 3, "--cold", "--sampler", "random", "--json"))
    assert [trial["trial"] for trial in asked["trials"]] == [0, 1, 2]
    assert all((Path(t["folder"]) / "recipe.toml").is_file() for t in asked["trials"])
    assert answer(call("tell", 0, "--value", 0.5, "--se", 0.01, "--json"))["value"] == 0.5
    status = Path(asked["trials"][1]["folder"]) / "status.json"
    status.write_text(json.dumps({"value": 0.7}))
    assert answer(call("sync", "--cold", "--json"))["waiting"] == [2]
    report = answer(call("report", "--cold", "--json"))
    assert [row["trial"] for row in report["ranking"]] == [1, 0]
    assert report["states"] == {"complete": 2, "running": 1}
    assert all(row["sd"] > 0.0 and row["domain"] for row in report["ranking"] + report["untried"])
    for point in report["surface"]:
        assert point["low"] < point["predicted"] < point["high"]
    with Path(tmp_path / "search/mix/report/surface.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"gsm8k", "numina"}
    weights = [float(row["weight"]) for row in rows if row["source"] == "numina"]
    assert (min(weights), max(weights)) == (0.1, 1.0)
    assert max(float(row["weight"]) for row in rows if row["source"] == "gsm8k") == 0.9
    assert (tmp_path / "search/mix/report/surface.png").stat().st_size > 10_000


def test_a_run_with_a_trainer_finds_the_better_mixtures(call: Call) -> None:
    command = f"{sys.executable} train.py {{recipe}} {{out}}"
    done = call("run", "--trials", 3, "--train-command", command, "--cold")
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" told: ") == 3
    assert "rlready" not in call("report", "--cold").stderr


def test_the_page_of_a_study_holds_in_a_browser(
    call: Call, tmp_path: Path, browser: Browser
) -> None:
    hostile = "<script>alert(1)<script>"
    (tmp_path / "mix.toml").write_text(SPACE.replace("[sources.gsm8k]", f"[sources.'{hostile}']"))
    call("ask", "--trials", 4, "--cold", "--sampler", "random", "--study", hostile, "--json")
    for trial, value in enumerate((0.5, 0.7, 0.6, 0.4)):
        call("tell", trial, "--value", value, "--study", hostile)
    files = answer(call("report", "--cold", "--json", "--study", hostile))["files"]
    page = next(Path(file) for file in files if file.endswith(".html"))
    check_page(browser, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1
    assert f"Weight of {html.escape(hostile)}" in text


def test_the_last_words_of_a_trainer_are_told_without_its_token(call: Call, tmp_path: Path) -> None:
    """They are stored in the study, and go from there to MLflow."""
    code = "import sys; sys.exit('login failed: hf_token=hunter2x')"
    command = f'{sys.executable} -c "{code}"'
    done = call("run", "--trials", 1, "--train-command", command, "--cold")
    assert done.exit_code == 2
    assert "hf_token=***" in done.output
    assert "hunter2x" not in done.output
    assert b"hunter2x" not in (tmp_path / "search.db").read_bytes()


def test_a_run_in_which_every_trial_fails_is_no_success(call: Call) -> None:
    command = f"{sys.executable} -c 'raise SystemExit(3)' {{recipe}}"
    done = call("run", "--trials", 2, "--train-command", command, "--cold")
    assert done.exit_code == 2
    assert "no trial was trained: 2 of 2 failed" in done.stderr
    assert done.stdout.count(" failed: ") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tell", "--value", "1"], "tell needs a trial"),
        (["tell", "0", "--value", "1", "--checkpoint", "x"], "tell needs a trial"),
        (["run", "--cold"], "run needs --train-command"),
        (["ask", "--value", "1"], "ask takes no trial"),
        (["report", "--cold"], "has 0 finished trials"),
        (["ask", "--cold", "--data", "x"], "Write NAME=FILE"),
        (["ask", "--cold", "--data", "x=y"], "not a source of the space"),
        (["ask", "--cold", "--storage", "mysql://x/y"], "not a database that workers can share"),
        (["ask", "--cold", "--study", "../x"], "not a name for a study"),
        (["tell", "5", "--value", "1"], "asked for no trial 5"),
        (["tell", "0", "--checkpoint", "x", "--cold"], "asked for no trial 0"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(call: Call, words: list[str], said: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_key_of_the_space_is_told_with_the_known(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(SPACE + "[sources.code]\ncapp = 1\n")
    result = call("ask", "--cold")
    assert result.exit_code == 2
    assert "'capp'" in result.stderr
    assert "cap, max_repetitions" in result.stderr


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            "[sources.a]\nfloor = 0.7\n[sources.b]\nfloor = 0.6",
            "the floors of the sources sum to 1.3",
        ),
        ("[sources.a]\ncap = 0.3\n[sources.b]\ncap = 0.4", "the caps of the sources sum to 0.7"),
        (
            "token_budget = 1e9\nmax_repetitions = 4\n[sources.a]\navailable_tokens = 1e7\n"
            "mean_tokens = 300\n[n_unique]\nlow = 1000\nhigh = 9000",
            "budget of 1e+09 tokens cannot be filled: with the repetitions allowed all sources "
            "together give 4e+07",
        ),
        ("budget = 1\n[sources.a]", "unknown key 'budget'. Known keys: token_budget"),
    ],
)
def test_a_space_that_allows_no_recipe_is_told_with_its_numbers(
    call: Call, tmp_path: Path, space: str, said: str
) -> None:
    (tmp_path / "mix.toml").write_text(space)
    result = call("ask", "--cold")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_the_registry_begins_a_search_and_measures_what_it_made(
    call: Call, sqlite_uri: str
) -> None:
    """Outcomes enter as finished trials; a told checkpoint has to have the asked recipe."""
    store = MlflowStore(sqlite_uri)
    for number in range(1, 4):
        put(store, number, Recipe(sources={"gsm8k": 0.2 * number, "numina": 1 - 0.2 * number}))
        store.put_outcome(an_outcome(number, value=0.1 * number, se=0.01))
    put(store, 4, Recipe(sources={"other": 1.0}))
    store.put_outcome(an_outcome(4, value=0.9))
    here = ("--tracking-uri", sqlite_uri, "--json")
    asked = answer(call("ask", *here))
    assert asked["warm_start"]["n_added"] == 3
    assert "other" in asked["warm_start"]["left_out"][0][1]
    number = asked["trials"][0]["trial"]
    recipe = Recipe.from_dict(asked["trials"][0]["recipe"])

    refused = call("tell", number, "--checkpoint", a_checkpoint(1).id, *here)
    assert refused.exit_code == 2
    assert "was not made by the asked recipe" in refused.stderr

    store.put_evaluation(
        Evaluation(checkpoint=a_checkpoint(9, recipe=recipe), proxies=(a_proxy(),), config={})
    )
    store.put_outcome(an_outcome(9, value=0.77, se=0.02))
    told = answer(call("tell", number, "--checkpoint", a_checkpoint(9).id, *here))
    assert (told["value"], told["se"]) == (0.77, 0.02)
    again = answer(call("ask", *here))
    assert again["warm_start"]["n_added"] == 0, "a told checkpoint entered twice"


def put(store: MlflowStore, number: int, recipe: Recipe, pass_at_64: float = 0.7) -> None:
    whole = Recipe(base_model="org/base", sources=recipe.sources, learning_rate=1e-5)
    checkpoint = a_checkpoint(number, recipe=whole, name=f"sft-{number}")
    proxies = (a_proxy(value=pass_at_64, se=0.01),)
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies, config={}))


@pytest.mark.slow
def test_a_checkpoint_without_outcome_is_told_by_its_prediction(
    call: Call, sqlite_uri: str, tmp_path: Path
) -> None:
    store = MlflowStore(sqlite_uri)
    for number in range(1, 13):
        recipe = Recipe(sources={"gsm8k": 0.5, "numina": 0.5})
        put(store, number, recipe, pass_at_64=0.5 + 0.02 * number)
        if number < 12:
            store.put_outcome(an_outcome(number, value=0.3 + 0.03 * number, se=0.005))
    fitted = CliRunner().invoke(main, ["fit", "--tracking-uri", sqlite_uri, "--json"])
    assert fitted.exit_code == 0, fitted.output
    (tmp_path / "mix.toml").write_text(SPACE.replace("low = 1e-6\nhigh = 1e-4", "choices = [1e-5]"))
    here = ("--tracking-uri", sqlite_uri, "--json")
    asked = answer(call("ask", *here))["trials"][0]
    assert asked["recipe"]["sources"] == {"gsm8k": 0.5, "numina": 0.5}
    told = answer(call("tell", asked["trial"], "--checkpoint", "sft-12", *here))
    assert told["value"] == pytest.approx(0.66, abs=0.05)
    assert told["se"] > 0.0
    assert told["is_predicted"]
    assert not answer(call("tell", asked["trial"], "--checkpoint", "sft-12", *here))["is_new"]

    store.put_outcome(an_outcome(12, value=0.5, se=0.01))
    again = answer(call("ask", *here))["warm_start"]
    assert (again["n_added"], again["n_superseded"]) == (1, 1)
    ranking = answer(call("report", *here))["ranking"]
    assert [row["value"] for row in ranking if row["checkpoint"] == a_checkpoint(12).id] == [0.5]


@pytest.mark.slow
def test_rows_without_outcome_enter_with_their_prediction_until_it_is_known(
    call: Call, sqlite_uri: str
) -> None:
    """Of those without outcome one is like the others, one far from all that the predictor saw.

    Before the predictor is fitted, both count by public outcomes and the recorded ones.
    """
    store = MlflowStore(sqlite_uri)
    for number in range(1, 15):
        recipe = Recipe(sources={"gsm8k": 0.05 * number, "numina": 1 - 0.05 * number})
        put(store, number, recipe, pass_at_64=0.05 if number == 14 else 0.5 + 0.02 * number)
        if number < 13:
            store.put_outcome(an_outcome(number, value=0.3 + 0.03 * number, se=0.005))
    here = ("--tracking-uri", sqlite_uri, "--json")
    cold = answer(call("ask", *here))
    assert (cold["warm_start"]["n_added"], cold["warm_start"]["n_predicted"]) == (14, 2)
    assert cold["notes"] == ["2 values are from public outcomes and 12 of your own"]
    row = row_of(call, 13, here)
    assert row["basis"] == "from public outcomes and 12 of your own"
    assert row["value"] == pytest.approx(0.69, abs=0.1)

    fitted = CliRunner().invoke(main, ["fit", "--tracking-uri", sqlite_uri, "--json"])
    assert fitted.exit_code == 0, fitted.output
    warm = answer(call("ask", *here))["warm_start"]
    assert (warm["n_added"], warm["n_predicted"], warm["n_superseded"]) == (1, 1, 1)
    assert "out of the predictor's domain" in dict(warm["left_out"])[a_checkpoint(14).id]
    ranking = answer(call("report", *here))["ranking"]
    assert a_checkpoint(14).id not in [row["checkpoint"] for row in ranking]
    row = row_of(call, 13, here)
    assert (row["is_predicted"], row["basis"]) == (True, "prediction")
    assert row["value"] == pytest.approx(0.69, abs=0.05)
    assert row["se"] > 0.0

    store.put_outcome(an_outcome(13, value=0.44, se=0.01))
    known = answer(call("ask", *here))["warm_start"]
    assert (known["n_added"], known["n_superseded"]) == (1, 1)
    row = row_of(call, 13, here)
    assert (row["value"], row["se"], row["is_predicted"]) == (0.44, 0.01, False)


@pytest.mark.slow
def test_a_search_without_outcome_goes_by_public_outcomes(call: Call, sqlite_uri: str) -> None:
    """The values have the order of `rlready rank`, also when a new checkpoint moves all of them."""
    store = MlflowStore(sqlite_uri)
    for number in range(1, 11):
        recipe = Recipe(sources={"gsm8k": 0.08 * number, "numina": 1 - 0.08 * number})
        put(store, number, recipe, pass_at_64=0.3 + 0.04 * number)
    here = ("--tracking-uri", sqlite_uri, "--json")
    words = "from public outcomes, no RL run of yours yet: standings in their group in standard"
    asked = answer(call("ask", *here))
    assert asked["warm_start"]["n_predicted"] == 10
    assert asked["notes"][0].startswith(f"10 values are {words}")
    assert asked["outlook"] is None
    report = call("report", *here[:2])
    assert f"10 values are {words}"[:60] in report.output
    before = row_of(call, 10, here)["value"]

    # The new checkpoint is far worse than all others, whose standings therefore change.
    recipe = Recipe.from_dict(asked["trials"][0]["recipe"])
    proxies = (a_proxy(value=0.01, se=0.01),)
    checkpoint = a_checkpoint(11, recipe=recipe, name="sft-11")
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies, config={}))
    number = asked["trials"][0]["trial"]
    told = answer(call("tell", number, "--checkpoint", "sft-11", "--target", "not yet", *here))
    assert told["public"].startswith(words)
    rows = answer(call("report", *here))["ranking"]
    assert all(row["basis"].startswith(words) for row in rows)
    shown = {row["checkpoint"]: row["value"] for row in rows}
    assert shown[checkpoint.id] == told["value"] < -1.0
    assert shown[a_checkpoint(10).id] != before
    names = {one.checkpoint.name: one.checkpoint.id for one in store.checkpoints()}
    ranked = [names[row["id"]] for row in answer(CliRunner().invoke(main, ["rank", *here]))["rows"]]
    assert sorted(shown, key=lambda id_: -shown[id_]) == ranked

    # An outcome gives the unit, and the values enter one fit with it.
    store.put_outcome(an_outcome(5, value=0.4, se=0.01))
    report = answer(call("report", *here))
    assert report["notes"] == ["10 values are from public outcomes and 1 of your own"]
    shown = {row["checkpoint"]: row["value"] for row in report["ranking"]}
    for row in answer(CliRunner().invoke(main, ["rank", *here]))["rows"]:
        assert shown[names[row["id"]]] == pytest.approx(row["predicted"], abs=1e-9)


@pytest.mark.slow
def test_values_from_public_outcomes_stand_aside_for_an_outcome_told_by_hand(
    call: Call, sqlite_uri: str
) -> None:
    store = MlflowStore(sqlite_uri)
    here = ("--tracking-uri", sqlite_uri, "--json")
    asked = answer(call("ask", "--trials", 2, *here))["trials"]
    recipe = Recipe.from_dict(asked[0]["recipe"])
    checkpoint = a_checkpoint(1, recipe=recipe, name="first")
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=(a_proxy(),), config={}))
    told = answer(call("tell", asked[0]["trial"], "--checkpoint", "first", *here))
    # It is alone in its group, whose mean it therefore is.
    assert (told["value"], told["se"]) == (0.0, None)
    call("tell", asked[1]["trial"], "--value", 0.6, *here)
    (note,) = answer(call("ask", *here))["notes"]
    assert note.startswith("1 values from public outcomes are left out: they have no common unit")


def row_of(call: Call, number: int, here: tuple[str, ...]) -> Any:
    """The one row of the ranking that is about a checkpoint."""
    ranking = answer(call("report", *here))["ranking"]
    (row,) = [row for row in ranking if row["checkpoint"] == a_checkpoint(number).id]
    return row


def test_ask_and_report_say_what_the_next_recipe_can_win(call: Call) -> None:
    asked = answer(call("ask", "--trials", 9, "--cold", "--sampler", "random", "--json"))
    assert asked["outlook"] is None
    for trial in asked["trials"]:
        value = 0.6 - (trial["recipe"]["sources"]["gsm8k"] - 0.6) ** 2
        call("tell", trial["trial"], "--value", value, "--se", 0.001)
    outlook = answer(call("ask", "--cold", "--json"))["outlook"]
    assert outlook["low"] <= outlook["gain"] <= outlook["high"]
    said = call("ask", "--cold").output
    gain = r"expected gain of trial \d+ over the best known \(trial \d\): [+-].*, 90 % "
    assert re.search(gain, said), said
    reported = call("report", "--cold").output
    assert "expected gain of the next recipe over the best known" in reported
