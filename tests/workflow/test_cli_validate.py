"""`rlready validate`: any table or the registry, what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from places import data_path
from store_child import an_evaluation

from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.cli.main import main
from rlready.workflow.predict.registry_table import default_features
from rlready.workflow.predict.validate import validate
from rlready.workflow.predict.validate_config import ValidateConfig

RETU = data_path("retu") / "checkpoints.csv"
TESTBED = Path(__file__).parents[2] / "testbed" / "results" / "full.csv"

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *flags: CliRunner().invoke(main, ["validate", *map(str, flags)])


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """12 checkpoints in 3 groups; the loss tells, pass_at_1 tells half, and two had no RL."""
    rng = np.random.default_rng(0)
    loss = rng.uniform(0.4, 0.8, 12)
    score = 90 - 30 * loss + rng.normal(size=12) * 0.3
    frame = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(12)],
            "set": np.repeat(["a", "b", "c"], 4),
            "val_loss": loss.round(4),
            "pass_at_1": (score + rng.normal(size=12) * 4).round(3),
            "pass_at_1_se": 0.5,
            "words": "text",
            "post": score.round(3),
            "post_se": 0.4,
        }
    )
    frame.loc[[3, 7], "post"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def flags(csv: Path, *more: Any) -> tuple[Any, ...]:
    return ("--table", csv, "--target", "post", "--features", "val_loss,pass_at_1", *more)


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


def test_json_is_one_object_with_every_split_and_score(run: Run, csv: Path) -> None:
    done = run(*flags(csv, "--group", "set", "--baseline", "pass_at_1", "--holdout", csv, "--json"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["n_rows"], found["n_groups"]) == (10, 3)
    for split in ("loo", "group", "parity", "holdout"):
        assert {found["default_model"], "constant", "baseline"} <= set(found[split])
        for name in ("r2", "spearman", "kendall", "decision_accuracy", "decision_accuracy_clear"):
            assert set(found[split]["baseline"][name]) >= {"value", "lo", "hi", "n"}
        assert {"regret_at_1", "regret_at_2", "regret_at_3"} <= set(found[split]["baseline"])
    assert {"decision_accuracy", "spearman", "regret_at_3"} <= set(found["pairs"]["default"])
    assert found["within"]["default"]["spearman"] == found["group"]["default"]["spearman_within"]
    assert set(found["level"]["default"]) == {"r2"}
    assert found["noise_ceiling_r2"] is None
    assert found["baseline_column"] == "pass_at_1"


def test_standard_errors_give_a_ceiling_and_decide_what_is_clear(run: Run, csv: Path) -> None:
    more = ("--se", "pass_at_1=pass_at_1_se", "--target-se", "post_se", "--splits", "loo", "--json")
    found = json.loads(run(*flags(csv, *more)).stdout)
    assert 0.9 < found["noise_ceiling_r2"] < 1
    assert "2 standard errors" in found["clear_rule"]
    assert set(found) & {"loo", "group", "parity"} == {"loo"}


def test_people_get_a_table_a_split_and_a_sentence(run: Run, csv: Path) -> None:
    done = run(*flags(csv, "--group", "set", "--baseline", "pass_at_1"))
    assert done.exit_code == 0, done.output
    assert "group: a checkpoint of a new group (groups left out); 10 rows, 3 groups" in done.stdout
    assert "baseline (pass_at_1)" in done.stdout
    assert "pairs: which of two checkpoints of different groups is better" in done.stdout
    assert "Inside groups these are" in done.stdout.replace("\n", " ")
    last = done.stdout.partition("note: 3 groups")[2]
    assert "beats baseline (pass_at_1)" in last.replace("\n", " ")


def test_predictions_are_a_row_a_checkpoint_out_of_fold_where_rl_was_run(
    run: Run, csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    done = run(*flags(csv, "--group", "set", "--names", "model", "--predictions", out, "--json"))
    assert done.exit_code == 0, done.output
    found = pd.read_csv(out)
    assert found["name"].tolist() == [f"m{i}" for i in range(12)]
    assert found["basis"].value_counts().to_dict() == {
        "out of fold (loo)": 10,
        "fit to all outcomes": 2,
    }
    assert (found["low"] < found["high"]).all()
    assert found["prediction"].between(found["low"], found["high"]).all()
    assert set(found["domain"]) <= {"in", "edge", "out"}
    assert {"regime", "reasons", "outcome"} <= set(found)


def test_a_loss_as_target_stays_a_loss(run: Run, csv: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(csv)
    frame["cost"] = -frame["post"]
    frame.to_csv(csv, index=False)
    common = ("--table", csv, "--features", "val_loss,pass_at_1", "--splits", "loo", "--json")
    out = tmp_path / "p.csv"
    lower = ("--target", "cost", "--lower-is-better", "--predictions", out)
    first = json.loads(run(*common, "--target", "post").stdout)
    second = json.loads(run(*common, *lower).stdout)
    assert second["loo"] == first["loo"]
    assert (pd.read_csv(out)["prediction"] < 0).all()


def test_parquet_and_patterns_are_read_alike(run: Run, csv: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(csv)
    frame.to_parquet(tmp_path / "t.parquet")
    more = ("--target", "post", "--splits", "loo", "--json", "--baseline", "pass_at_1")
    one = run("--table", csv, "--features", "val_loss,pass_at_1", *more)
    two = run(
        "--table", tmp_path / "t.parquet", "--features", "*loss,pass_at_?,pass_at_1*",
        "--se", "pass_at_1=pass_at_1_se", *more,
    )  # fmt: skip
    assert "no column 'pass_at_?'" in refused(two).replace("has no", "no")
    two = run(
        "--table", tmp_path / "t.parquet", "--features", "*_loss,pass_at_1", *more
    )  # fmt: skip
    assert json.loads(one.stdout) == json.loads(two.stdout)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--target", "nope"], "compared. Its columns: model, set, val_loss"),
        (["--features", "nope"], "no column 'nope'. Its columns: model"),
        (["--features", "zz*"], "no column of numbers matches 'zz*'. Columns: model"),
        (["--features", "words"], "column 'words' is not numeric: row 1 holds 'text'"),
        (["--features", "post"], "'post' is the target"),
        (["--group", "nope"], "no column 'nope'"),
        (["--baseline", "nope"], "no column 'nope'"),
        (["--se", "val_loss"], "does not say which column has which standard error"),
        (["--model", "nope"], "no model 'nope'. Known: "),
        (["--splits", "half"], "no split 'half'. Known: loo, group, parity"),
        (["--table", "none.csv"], "cannot read none.csv as a table"),
        (["--holdout", "none.csv"], "cannot read none.csv as a table"),
        (["--predictions", "no/such/folder.csv"], "cannot write no/such/folder.csv"),
    ],
)
def test_what_cannot_be_meant_is_told(
    run: Run, csv: Path, changed: list[str], message: str
) -> None:
    given = dict(zip(flags(csv)[::2], flags(csv)[1::2], strict=True))
    given |= {"--splits": "loo"} | dict([changed])
    assert message in refused(run(*[part for pair in given.items() for part in pair]))


@pytest.mark.parametrize(
    ("renamed", "practice"),
    [
        ("Pass@1", "Pass@1"),
        ("pre_pass@1@math", "pre_pass@1@math"),
        ("sft_score", None),
        ("pass@1_after_rl", None),
        ("pass@16", None),
    ],
)
def test_the_practice_is_found_by_its_name_or_said_to_be_missing(
    run: Run, csv: Path, renamed: str, practice: str | None
) -> None:
    frame = pd.read_csv(csv).rename(columns={"pass_at_1": renamed})
    frame.to_csv(csv, index=False)
    table = ("--table", csv, "--target", "post", "--features", "val_loss", "--splits", "loo")
    found = json.loads(run(*table, "--json").stdout)
    assert found["baseline_column"] == practice
    said = [note for note in found["notes"] if "--baseline COL" in note]
    assert len(said) == 1
    assert ("no column has the name of pass@1" in said[0]) == (practice is None)
    assert found["baseline"] == ("constant" if practice is None else "baseline")


def test_outcomes_without_errors_are_said_to_be_taken_as_exact(run: Run, csv: Path) -> None:
    notes = json.loads(run(*flags(csv, "--splits", "loo", "--json")).stdout)["notes"]
    assert any("each recorded outcome is taken as exact" in note for note in notes)


def test_a_missing_standard_error_is_filled_and_said(run: Run, csv: Path) -> None:
    frame = pd.read_csv(csv)
    frame["post_se"] = frame["post_se"].where(frame.index != 5)
    frame.to_csv(csv, index=False)
    done = run(*flags(csv, "--target-se", "post_se", "--splits", "loo", "--json"))
    notes = json.loads(done.stdout)["notes"]
    assert any("1 of 10 outcomes have no standard error" in note for note in notes)
    assert any("it is taken to be 0.4, the root mean square" in note for note in notes)


def test_a_table_needs_a_target_and_says_what_there_is(run: Run, csv: Path) -> None:
    assert "Name one with --target. Columns: model" in refused(run("--table", csv))


@pytest.mark.parametrize(
    ("missing", "more", "message"),
    [
        ("post", ("--target", "post"), "no column 'post', which --target names: .*after RL"),
        ("post", (), "no target is named: .*after RL.* Name one with --target"),
        ("set", ("--target", "post", "--group", "set"), "no column 'set', .*all rows are one"),
        (None, ("--target", "post", "--group", "empty"), "column 'empty', .* is empty"),
        (
            None,
            ("--target", "post", "--group", "set"),
            "no proxies are named: .*--features. Columns of numbers: val_loss, pass_at_1,",
        ),
        (None, ("--target", "empty", "--features", "val_loss"), "no row has a number.*Fill it in"),
    ],
)
def test_a_table_without_outcome_or_group_is_told_before_its_proxies(
    run: Run, csv: Path, missing: str | None, more: tuple[str, ...], message: str
) -> None:
    """Without --features the default proxies of the registry were missed, whatever was wrong."""
    frame = pd.read_csv(csv).assign(empty="")
    frame = frame if missing is None else frame.drop(columns=missing)
    frame.to_csv(csv, index=False)
    assert re.search(message, refused(run("--table", csv, *more)))


def test_a_table_without_proxies_is_told(run: Run, csv: Path) -> None:
    pd.read_csv(csv)[["post"]].to_csv(csv, index=False)
    assert "Add a column of numbers" in refused(run("--table", csv, "--target", "post"))


def test_a_file_that_is_no_table_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"")
    assert "cannot read" in refused(run(*flags(tmp_path / "t.csv")))
    (tmp_path / "t.parquet").write_bytes(b"not parquet")
    assert "cannot read" in refused(run(*flags(tmp_path / "t.parquet")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda text: text.replace("words", "post"), "t.csv has 2 columns 'post': .*Rename"),
        (lambda text: text.replace(",", ";"), "separated by ';'. Separate them by commas"),
        (lambda text: text.replace(",", "\t"), "one column, 'model.*Separate them by commas"),
        (lambda text: text.splitlines()[0], "t.csv has no rows"),
        (lambda text: text.encode("utf-16"), "cannot read .*t.csv as a table.*UTF-8, separated"),
    ],
)
def test_a_table_in_another_form_is_told_how_to_write_it(
    run: Run, csv: Path, changed: Callable[[str], str | bytes], message: str
) -> None:
    """The first of two columns of one name was taken without a word."""
    given = changed(csv.read_text(encoding="utf-8"))
    csv.write_bytes(given if isinstance(given, bytes) else given.encode())
    assert re.search(message, refused(run(*flags(csv))))


def test_a_column_whose_name_ends_in_a_number_is_not_a_duplicate(run: Run, csv: Path) -> None:
    csv.write_text(csv.read_text().replace("words", "post.1").replace("text", "1"))
    assert run(*flags(csv, "--splits", "loo", "--json")).exit_code == 0


def test_an_empty_registry_is_told(run: Run, sqlite_uri: str) -> None:
    assert "holds no outcome" in refused(run("--tracking-uri", sqlite_uri))


def test_the_registry_is_validated_without_a_file(run: Run, sqlite_uri: str) -> None:
    store = MlflowStore(sqlite_uri)
    for seed in range(1, 5):
        store.put_evaluation(an_evaluation(seed, value=0.5 + 0.05 * seed))
    ids = [entry.checkpoint.id for entry in store.checkpoints()]
    for number, checkpoint in enumerate(ids):
        done = CliRunner().invoke(
            main,
            ["outcome", checkpoint, "--value", str(0.4 + 0.1 * number), "--benchmark", "gsm8k",
             "--algorithm", "grpo", "--budget", "60", "--budget-unit", "steps",
             "--tracking-uri", sqlite_uri],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    done = run("--tracking-uri", sqlite_uri, "--splits", "loo", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["n_rows"] == len(ids)
    assert found["baseline"] == "constant", "pass@1 was not measured on gsm8k"
    assert any(note.startswith("proxies, by default: pass_at_64@gsm8k") for note in found["notes"])
    assert "The registry holds value_at_budget/60steps@gsm8k" in refused(
        run("--tracking-uri", sqlite_uri, "--target", "nope")
    )


def test_default_features_are_few_and_of_the_widest_benchmark() -> None:
    sampled = (
        "pass_at_1",
        "pass_at_4",
        "pass_at_64",
        "signal_share_8",
        "token_entropy",
        "maj_at_4",
    )
    frame = pd.DataFrame(
        {f"{proxy}@{b}": [0.1, 0.2] for proxy in sampled for b in ("add", "world")}
        | {"pass_at_1_n@add": [34, 34], "pass_at_1_n@world": [204, 204]}
        | {"heldout_nll@terse": [1.0, 1.1], "heldout_nll_per_sequence@terse": [9.0, 9.1]}
        | {"pass_at_1@world_after": [0.1, 0.2], "value_at_budget/60steps@world_after": [0.5, 0.6]}
    )
    expected = [f"{p}@world" for p in sampled[:5]]
    target = "value_at_budget/60steps@world_after"
    assert default_features(frame, target) == (*expected, "heldout_nll@terse")
    assert default_features(frame, "value_at_budget/60steps@add")[0] == "pass_at_1@add"
    with pytest.raises(ConfigError, match="no default proxies were found"):
        default_features(frame[["value_at_budget/60steps@world_after"]])


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (
            RETU,
            {
                "target": "post_overall_smooth5_peak",
                "features": ("val_loss", "pre_*_bench", "pre_ma*", "pre_mi*", "pre_a*", "pre_o*"),
                "groups": ("sft_data",),
                "names": "sft_step",
            },
        ),
        pytest.param(
            TESTBED,
            {
                "target": "value_at_budget/60steps@world_after",
                "target_se": "value_at_budget/60steps_se@world_after",
                "groups": ("recipe.style",),
                "names": "name",
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["retu", "testbed"],
)
def test_intervals_of_left_out_groups_are_those_of_new_groups_and_cover(
    tmp_path: Path, data: Path, settings: dict[str, Any]
) -> None:
    """They were those of known groups, of a fit that had seen the outcomes, moved to the side."""
    out = tmp_path / "p.csv"
    validate(ValidateConfig(table=data, splits=("group",), predictions=out, **settings))
    found = pd.read_csv(out)
    found = found[found["outcome"].notna()]
    assert set(found["basis"]) == {"out of fold (group)"}
    assert set(found["regime"]) == {"new group, model-based"}
    is_inside = (found["low"] <= found["outcome"]) & (found["outcome"] <= found["high"])
    assert 0.85 <= is_inside.mean() <= 0.95


@pytest.mark.slow
def test_retu_is_validated_beside_the_practice() -> None:
    config = ValidateConfig(
        table=RETU,
        target="post_overall_smooth5_peak",
        features=("val_loss", "pre_aime", "pre_math", "pre_overall"),
        groups=("sft_data",),
        baseline="pre_overall",
        splits=("group",),
    )
    report = validate(config).report
    found = report.splits["group"].models
    assert report.n_groups == 4
    # The post-SFT score decides no better than a coin on new SFT sets (notes of the design).
    decided = found["baseline"].scores["decision_accuracy"]
    assert decided.score.value == pytest.approx(0.49, abs=0.02)
    assert decided.lo is not None
    assert decided.lo < 0.5
