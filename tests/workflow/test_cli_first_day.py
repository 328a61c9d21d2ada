"""`rlready rank | plan | tag | fit` with 0 to 5 outcomes, from proxies to a first advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import copy_database
from click.testing import CliRunner, Result
from scipy.stats import spearmanr
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Proxy, Recipe
from rlready.workflow.cli.main import main
from rlready.workflow.predict import figures

N = 8
NO_RUN = "from public outcomes, no RL run of yours yet"
STYLES = ("terse", "long")
SKILL = np.linspace(0.2, 0.55, N)
OUTCOME = 0.3 + 0.6 * SKILL + np.array([0.01, -0.01, 0.0, 0.02, -0.02, 0.01, 0.0, -0.01])

Run = Callable[..., Result]


def _proxies(number: int) -> tuple[Proxy, ...]:
    skill = float(SKILL[number])
    losses = [
        a_proxy(
            name="heldout_nll",
            value=1.4 - skill + 0.3 * (style != STYLES[number % 2]),
            se=0.01,
            unit="nats/token",
            protocol_digest=None,
            benchmark=f"heldout_{style}",
        )
        for style in STYLES
    ]
    return (
        a_proxy(name="pass_at_1", value=skill, se=0.02),
        a_proxy(value=skill + 0.3, se=0.02),
        *losses,
    )


def _put(uri: str, n_outcomes: int, numbers: range = range(N), **changes: Any) -> None:
    store = MlflowStore(uri)
    for number in numbers:
        recipe = Recipe(
            base_model="Qwen2.5-0.5B",
            extra={"style": STYLES[number % 2], **changes.get("extra", {})},
        )
        if "bases" in changes:
            recipe = Recipe(base_model=changes["bases"][number])
        checkpoint = a_checkpoint(number + 1, recipe=recipe, name=f"sft-{number}")
        proxies = changes["proxies"](number) if "proxies" in changes else _proxies(number)
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies, config={}))
    values = changes.get("values", OUTCOME)
    # The best first, as a user would run them.
    for number in list(reversed(numbers))[:n_outcomes]:
        store.put_outcome(
            an_outcome(number + 1, value=float(values[number]), **changes.get("outcome", {}))
        )


@pytest.fixture(scope="module")
def evaluated(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with evaluations and no outcome."""
    folder = tmp_path_factory.mktemp("registry")
    copy_database(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _put(f"sqlite:///{folder / 'mlflow.db'}", 0)
    return folder / "mlflow.db"


@pytest.fixture
def run_after(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs rlready on the evaluated checkpoints after n outcomes."""
    monkeypatch.chdir(tmp_path)

    def after(n_outcomes: int, **changes: Any) -> Run:
        path = tmp_path / f"{n_outcomes}.db"
        copy_database(evaluated, path)
        uri = f"sqlite:///{path}"
        if n_outcomes:
            _put(uri, n_outcomes, **changes)
        return runner(uri)

    return after


def runner(uri: str) -> Run:
    return lambda *flags: CliRunner().invoke(main, [*map(str, flags), "--tracking-uri", uri])


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


def told(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_a_ranking_answers_from_the_first_day(run_after: Any, n: int) -> None:
    found = answer(run_after(n)("rank", "--json"))
    assert found["n_outcomes"] == n
    assert found["basis"] == (NO_RUN if n == 0 else f"from public outcomes and {n} of your own")
    assert "on public groups that the prior had not seen" in found["track_record"]
    assert "paper's rule" in found["paper_rule"]
    assert any("one group only" in warning for warning in found["warnings"])
    rows = found["rows"]
    assert [row["rank"] for row in rows] == list(range(1, N + 1))
    assert all(row["reasons"][0] == found["basis"] for row in rows)
    assert {row["readiness"] for row in rows} == {"UNDECIDED"}
    assert spearmanr([int(row["id"][-1]) for row in rows], range(N, 0, -1)).statistic > 0.9
    cap = found["most_certain"]["all"]
    assert cap == pytest.approx(1 - 0.05 * 5 / (5 + n)), "each style has its own held-out set"
    unknown = [row for row in rows if row["recorded"] is None]
    assert len(unknown) == N - n
    assert all(0.0 <= row["p_best"] <= cap for row in unknown)
    if n == 0:
        assert found["target"] == "score after RL"
        assert {row["predicted"] for row in rows} == {None}
    else:
        assert all(row["low"] <= row["predicted"] <= row["high"] for row in rows)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_plan_answers_from_the_first_day(run_after: Any, n: int) -> None:
    found = answer(run_after(n)("plan", "--rl-runs", 2, "--json"))
    assert found["chosen"][0] == f"sft-{N - 1 - n}"
    assert len(found["chosen"]) == 2
    assert found["predictor"] == "public outcomes"
    assert found["n_outcomes"] == n
    assert "public groups" in found["track_record"]
    regret = {name: [v["regret"] for v in values] for name, values in found["policies"].items()}
    assert regret["expected"][0] > regret["expected"][-1] >= 0.0
    assert regret["expected"][0] < regret["random"][0]
    assert {"pass_at_1@gsm8k", "paper's rule"} <= set(regret)
    assert found["unit"] == (
        "standard deviations of outcomes inside a group" if n == 0 else "the target's unit"
    )
    assert (found["incumbent"] is None) == (n == 0)


@pytest.mark.parametrize(("n", "unit"), [(0, "standard deviations of"), (1, "the target's unit")])
def test_the_figure_of_a_plan_names_the_unit_of_its_regrets(
    run_after: Any, monkeypatch: pytest.MonkeyPatch, n: int, unit: str
) -> None:
    """Without an outcome the axis once said "in the target's unit"."""
    labels = []

    def keep(figure: Any, path: Path, **options: Any) -> Path:
        labels.extend(axes.get_ylabel() for axes in figure.axes)
        return path

    monkeypatch.setattr(figures, "_save", keep)
    shown = run_after(n)("plan", "--rl-runs", 1, "--figure", "plan.png")
    assert shown.exit_code == 0, shown.output
    assert labels[0].startswith(f"regret, in {unit}")


@pytest.mark.parametrize("n", [0, 1, 3])
def test_people_are_told_what_it_rests_on(run_after: Any, n: int) -> None:
    run = run_after(n)
    basis = NO_RUN if n == 0 else f"from public outcomes and {n} of your own"
    for flags in (["rank"], ["plan", "--rl-runs", 1]):
        shown = run(*flags)
        assert shown.exit_code == 0, shown.output
        text = " ".join(shown.output.split())
        for words in (basis, "Basis: ", "How often such advice was right", "the paper's rule"):
            assert words in text, words
        assert "heldout_long, heldout_terse" in text
    assert " 0.00 " not in run("rank").output, "no chance is shown as impossible"


def test_a_tag_from_public_outcomes_sets_no_alias_and_says_why(run_after: Any) -> None:
    found = answer(run_after(3)("tag", "--json"))
    [family] = found["families"]
    assert family["chosen"] is None
    assert {tag["readiness"] for tag in family["tagged"]} == {"UNDECIDED"}
    assert "no alias is set" in found["notes"][0]
    assert "from public outcomes and 3 of your own" in family["tagged"][0]["reasons"][0]
    assert family["tagged"][0]["name"] == "sft-7"


def test_a_fit_with_too_few_outcomes_names_the_commands_that_answer(run_after: Any) -> None:
    text = told(run_after(3)("fit"))
    assert "3 checkpoints have" in text
    assert "rlready rank" in text
    assert "record 2 more" in text
    assert "rlready rank" in told(run_after(0)("fit"))


def test_the_order_moves_little_where_a_predictor_comes_in(run_after: Any) -> None:
    orders = {}
    for n in (4, 5, 6):
        run = run_after(n)
        if n > 4:
            assert run("fit").exit_code == 0
        found = answer(run("rank", "--json"))
        orders[n] = [row["id"] for row in found["rows"]]
        if n > 4:
            assert found["prior_weight"] in ((12 - n) / 8, 1.0)
            assert f"{n} outcomes" in found["notes"][0]
            assert found["predictor"] == "models:/grpo-predictor/1"
            assert all(row["rank"] for row in found["rows"]), "none is out of the domain yet"
            assert "public outcomes" in run("rank").output
            planned = answer(run("plan", "--rl-runs", 1, "--json"))
            assert "public outcomes" in " ".join(planned["notes"])
    names = sorted(orders[4])
    places = {n: [order.index(name) for name in names] for n, order in orders.items()}
    assert spearmanr(places[4], places[5]).statistic > 0.9
    assert spearmanr(places[5], places[6]).statistic > 0.9


def test_few_outcomes_without_a_signal_leave_the_order_to_public_ones(run_after: Any) -> None:
    values = OUTCOME[[3, 7, 2, 6, 0, 5, 1, 4]]
    run = run_after(5, values=values)
    assert run("fit").exit_code == 0
    found = answer(run("rank", "--json"))
    assert found["prior_weight"] == 1.0
    assert "show no signal yet" in found["notes"][0]
    assert {row["readiness"] for row in found["rows"]} == {"UNDECIDED"}
    unknown = [row for row in found["rows"] if int(row["id"][-1]) < N - 5]
    assert all(row["rank"] for row in unknown)
    assert answer(run("plan", "--rl-runs", 1, "--json"))["chosen"]


def test_the_own_style_is_named_or_known_from_the_recipe(run_after: Any) -> None:
    run = run_after(0)
    by_recipe = answer(run("rank", "--json"))
    assert any("by their recipes: heldout_long, heldout_terse" in n for n in by_recipe["notes"])
    named = answer(run("rank", "--own-style", "heldout_long", "--json"))
    assert any("heldout_long (as told)" in note for note in named["notes"])
    assert "there" not in " ".join(named["warnings"])
    assert "no checkpoint has a loss on the held-out set nope" in told(
        run("rank", "--own-style", "nope")
    )


@pytest.mark.parametrize("n", [0, 2])
def test_what_is_ranked_before_a_fit_is_frozen_and_judged_afterwards(
    run_after: Any, n: int
) -> None:
    run = run_after(n)
    assert answer(run("rank", "--no-freeze", "--json"))["frozen"] is None
    assert "no prediction was frozen yet" in told(run("audit"))
    first = answer(run("rank", "--json"))["frozen"]
    assert (first["n_predictions"], first["is_new"]) == (N - n, True)
    assert answer(run("rank", "--json"))["frozen"]["is_new"] is False, "written once"
    assert answer(run("plan", "--rl-runs", 2, "--json"))["frozen"]["is_new"] is True
    assert "`rlready audit` judges" in run("rank").output
    early = answer(run("audit", "--json"))
    assert early["overall"] is None
    assert "Nothing can be judged yet" in early["verdict"]
    store = MlflowStore(run.__closure__[0].cell_contents)  # type: ignore[attr-defined]
    for number in range(N):
        store.put_outcome(an_outcome(number + 1, value=float(OUTCOME[number])))
    found = answer(run("audit", "--json"))
    assert found["target"] == "value_at_budget/60steps@gsm8k"
    ranked, planned = found["scores"]
    assert (ranked["command"], planned["command"]) == ("rank", "plan")
    assert ranked["predictor"].startswith("public outcomes/")
    assert ranked["n_judged"] == N - n
    assert ranked["n_chances"] == (N - n) * (N - n - 1) // 2
    assert ranked["pairs_right"] > 0.85
    assert 0.5 < ranked["chances_claimed"] < 0.95
    assert ranked["brier"] < 0.2
    assert planned["regret"] == planned["practice_regret"] == 0.0
    assert (ranked["coverage"] is None) == (n == 0), "without an outcome there is no unit"
    assert found["overall"]["n_chances"] == ranked["n_chances"]
    text = " ".join(run("audit").output.split())
    assert "orders of two with a chance" in text
    assert "Judged on" in text


def test_a_changed_first_ranking_is_refused(run_after: Any, evaluated: Path) -> None:
    run = run_after(0)
    # Copies of the database share the folder of the artifacts.
    before = set(evaluated.parent.glob("mlruns/**/frozen_prediction.json"))
    assert answer(run("rank", "--json"))["frozen"]["is_new"]
    [path] = set(evaluated.parent.glob("mlruns/**/frozen_prediction.json")) - before
    record = json.loads(path.read_text())
    shown = {row["id"]: row for row in answer(run("rank", "--json"))["rows"]}
    assert record["top_n"] == 3
    for row in record["rows"]:
        for name in ("p_best", "p_top", "p_match"):
            assert row[name] == pytest.approx(shown[row["name"]][name], abs=6e-5)
    record["chances"][0][2] = 0.5
    path.write_text(json.dumps(record))
    assert "was changed after it was made" in told(run("audit"))


def test_an_order_that_was_frozen_without_a_target_is_judged_by_a_named_one(run_after: Any) -> None:
    run = run_after(0)
    assert answer(run("rank", "--json"))["frozen"]["is_new"]
    assert "no prediction of peak/1steps@x was frozen" in told(
        run("audit", "--target", "peak/1steps@x")
    )
    store = MlflowStore(run.__closure__[0].cell_contents)  # type: ignore[attr-defined]
    for number in range(3):
        for budget in (30, 60):
            store.put_outcome(an_outcome(number + 1, value=float(OUTCOME[number]), budget=budget))
    text = told(run("audit"))
    assert "Name one with --target" in text
    target = "value_at_budget/30steps@gsm8k"
    assert target in text
    found = answer(run("audit", "--target", target, "--json"))
    assert (found["target"], found["overall"]["n_judged"]) == (target, 3)


def fresh(empty_database: Path, folder: Path, n_outcomes: int, **changes: Any) -> Run:
    copy_database(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    _put(uri, n_outcomes, range(changes.pop("n", 4)), **changes)
    return runner(uri)


def _own_benchmark(number: int) -> tuple[Proxy, ...]:
    return (a_proxy(name="pass_at_1", value=0.4, benchmark=f"only-{number}"),)


def _own_content(number: int) -> tuple[Proxy, ...]:
    return (a_proxy(name="pass_at_1", value=0.4, benchmark_digest=f"{number:032x}"),)


def _score_only(number: int) -> tuple[Proxy, ...]:
    return (a_proxy(name="pass_at_1", value=0.001 * number),)


@pytest.mark.parametrize(
    ("n_outcomes", "changes", "message"),
    [
        (0, {"n": 0}, "the registry holds no SFT checkpoint"),
        (
            0,
            {"n": 2, "proxies": _own_benchmark},
            "no two checkpoints have a proxy in common",
        ),
        (0, {"proxies": _own_content}, "different contents of gsm8k"),
        (0, {"n": 1}, "no group has two checkpoints"),
        (0, {"bases": ["p", "q", "r", "s"]}, "no group has two checkpoints"),
        (3, {"values": [0.5] * 4}, "all 3 outcomes are 0.5"),
        (2, {"outcome": {"rl_recipe": {"simulated": True}}}, "simulated outcomes"),
        (2, {"extra": {"note": "synthetic outcomes"}}, "simulated outcomes"),
        (4, {}, "all 4 checkpoints have an outcome"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_outcomes: int,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fresh(empty_database, tmp_path, n_outcomes, **changes)
    assert message in told(run("plan", "--rl-runs", 1))
    if "have an outcome" not in message:
        assert message in told(run("rank", "--json"))


def test_the_format_floor_and_a_missing_loss_are_warned_of(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fresh(empty_database, tmp_path, 0, proxies=_score_only, n=5)
    warnings = " ".join(answer(run("rank", "--json"))["warnings"])
    assert "near 0" in warnings
    assert "no held-out loss on text of the checkpoints' own style" in warnings
    assert "near 0" in " ".join(run("rank").output.split())
    text = told(run("rank", "--group", "nope"))
    assert "there is no group nope. All checkpoints are one group: leave --group out" in text


def test_one_of_several_outcomes_must_be_named(run_after: Any) -> None:
    run = run_after(2)
    store = MlflowStore(run.__closure__[0].cell_contents)  # type: ignore[attr-defined]
    store.put_outcome(an_outcome(1, value=0.4, budget=30))
    assert "--target" in told(run("rank"))
    found = answer(run("rank", "--target", "value_at_budget/60steps@gsm8k", "--json"))
    assert found["n_outcomes"] == 2


def test_a_figure_has_the_name_that_is_given(run_after: Any, tmp_path: Path) -> None:
    """Matplotlib added .png, so that a folder's name drew a file beside the folder."""
    run = run_after(0)
    run("plan", "--rl-runs", 1, "--figure", "drawn", "--no-freeze")
    assert (tmp_path / "drawn").read_bytes().startswith(b"\x89PNG")
    assert "s a directory" in told(run("plan", "--rl-runs", 1, "--figure", tmp_path))


def test_rl_steps_without_a_predictor_lead_to_whole_runs(run_after: Any) -> None:
    said = told(run_after(3)("plan", "--rl-steps", 200))
    assert "no predictor is fitted yet, and RL steps are planned by one" in said
    assert "Plan whole runs with --rl-runs N" in said


def test_a_predictor_that_is_asked_for_by_another_name_must_exist(run_after: Any) -> None:
    assert "nope" in told(run_after(0)("rank", "--predictor", "nope"))


def test_a_table_of_simulated_outcomes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("pre_acc,post,simulated\n0.1,0.2,yes\n0.2,0.3,no\n")
    flags = ["validate", "--table", str(path), "--target", "post", "--features", "pre_acc"]
    assert "simulated outcomes" in told(CliRunner().invoke(main, flags))


def test_groups_are_ranked_apart_and_a_plan_says_what_it_takes_of_their_levels(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fresh(empty_database, tmp_path, 0, n=5, bases=["p", "q", "p", "q", "alone"])
    found = answer(run("rank", "--json"))
    assert [(row["group"], row["rank_in_group"]) for row in found["rows"]] == [
        ("alone", None),
        ("p", 1),
        ("p", 2),
        ("q", 1),
        ("q", 2),
    ]
    assert any("group alone has one checkpoint" in warning for warning in found["warnings"])
    assert "alone in its group" in " ".join(run("rank").output.split())
    only = answer(run("rank", "--group", "p", "--json"))
    assert {row["group"] for row in only["rows"]} == {"p"}
    planned = answer(run("plan", "--rl-runs", 1, "--json"))
    assert any("level of a group" in note for note in planned["notes"])
    store = MlflowStore(run.__closure__[0].cell_contents)  # type: ignore[attr-defined]
    for number in range(4):
        store.put_outcome(an_outcome(number + 1, value=float(OUTCOME[number])))
    audited = answer(run("audit", "--json"))
    assert "no regret of rank is judged: it orders the checkpoints only" in audited["verdict"]
    assert "inside each of 3 groups" in " ".join(run("audit").output.split())
    ranked = next(score for score in audited["scores"] if score["command"] == "rank")
    assert (ranked["regret"], ranked["n_chosen_judged"]) == (None, 0)
