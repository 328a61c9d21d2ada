"""Curves as people and loggers write them: what becomes an outcome, and what is asked back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import data_path
from store_child import a_checkpoint, a_proxy

from rlready.predictors.rl_curve import read_curves
from rlready.registry.errors import CurveError, RlreadyError
from rlready.registry.records import Evaluation
from rlready.registry.store import MemoryStore
from rlready.workflow.predict.outcome import OutcomeConfig, OutcomeReport, record

AWKWARD = data_path("awkward_inputs")
NAME = a_checkpoint(1).name

READ = {
    "bom_crlf.csv": {},
    "comma_dec.csv": {},
    "float_steps.csv": {},
    "global_step.csv": {},
    "index.csv": {},
    "long.csv": {},
    "mixed.csv": {},
    "mixed2.csv": {},
    "neg_se.csv": {},
    "percent.csv": {"percent": True},
    "percent_sign.csv": {},
    "plain.csv": {},
    "short.csv": {"budget": 100},
    "spaces.csv": {},
    "step_sing.csv": {},
    "tensorboard.csv": {"benchmark": "gsm8k"},
    "wandb.csv": {},
    "wandb_sparse.csv": {},
}
REFUSED = {
    "gt1.csv": "line 3: gsm8k is 1.55.*a share between 0 and 1.*also holds 0.4.*--percent",
    "nan.csv": "line 3: gsm8k is 'NaN', not a finite number",
    "percent.csv": "line 2: gsm8k is 40.*add --percent",
    "restart.csv": "line 5: steps is 100 after 150",
    "short.csv": "beyond the curve's end",
    "tensorboard.csv": "the benchmark of its column `Value`.*--benchmark NAME",
    "training_reward.csv": "column 'reward' of .* is a training metric",
    "unsorted_dup.csv": "line 3: steps is 0 after 200",
}


def recorded(path: Path, **flags: Any) -> OutcomeReport:
    """What `rlready outcome --curve` records of a checkpoint measured on two benchmarks."""
    store = MemoryStore()
    scores = {"gsm8k": 0.4, "aime24": 0.1}
    proxies = [a_proxy(name="pass_at_1", benchmark=b, value=v) for b, v in scores.items()]
    store.put_evaluation(Evaluation(checkpoint=a_checkpoint(1), proxies=tuple(proxies)))
    defaults: dict[str, Any] = {"algorithm": "grpo", "budget": 200, "budget_unit": "steps"}
    return record(OutcomeConfig(checkpoint=NAME, curve=path, **{**defaults, **flags}), store)


def scores(path: Path, **flags: Any) -> dict[str, float]:
    return {outcome.benchmark: outcome.value for outcome, _ in recorded(path, **flags).outcomes}


def write(folder: Path, text: str, name: str = "curve.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestFilesThatPeopleHave:
    """`../shared/data/awkward_inputs`: each CSV file is read rightly or refused with a reason."""

    def test_each_is_named_here(self) -> None:
        assert {path.name for path in AWKWARD.glob("*.csv")} == {*READ, *REFUSED}

    @pytest.mark.parametrize("name", READ)
    def test_it_is_read(self, name: str) -> None:
        expected = 0.5 if name == "short.csv" else 0.55
        assert scores(AWKWARD / name, **READ[name]) == {"gsm8k": pytest.approx(expected)}

    @pytest.mark.parametrize("name", REFUSED)
    def test_it_is_refused(self, name: str) -> None:
        with pytest.raises(CurveError, match=REFUSED[name]):
            recorded(AWKWARD / name)

    def test_a_share_before_rl_shows_that_percent_is_wrong(self) -> None:
        """0.40 and 1.55 as percentages, of a checkpoint whose pass@1 is 0.40."""
        with pytest.raises(
            CurveError, match=r"begins with 0.004 at budget 0.*pass@1 on gsm8k is 0"
        ):
            recorded(AWKWARD / "gt1.csv", percent=True)

    def test_columns_that_are_left_out_are_named(self) -> None:
        (note,) = recorded(AWKWARD / "mixed2.csv").warnings
        assert "ignored 4 columns of mixed2.csv: loss, grad_norm, kl, entropy" in note


@pytest.mark.parametrize(
    "column",
    [
        "gsm8k",
        "GSM8K",
        "eval/gsm8k",
        "eval_gsm8k",
        "eval_gsm8k_accuracy",
        "eval/gsm8k/pass@1",
        "test/gsm8k/acc",
        "val/gsm8k/mean@8",
        "val-core/openai/gsm8k/reward/mean@1",
        "val-core/openai/gsm8k/acc/mean@32",
        "val-aux/gsm8k/reward/mean@8",
        "val/test_score/openai/gsm8k",
        "run - with a dash - eval/gsm8k",
    ],
)
def test_a_score_of_a_benchmark_is_known_by_its_name(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, f'Step,"{column}","{column}__MIN","{column}__MAX",loss\n200,0.5,0,1,9\n')
    assert scores(path) == {"gsm8k": 0.5}
    assert scores(path, benchmark="gsm8k") == {"gsm8k": 0.5}


@pytest.mark.parametrize(
    "column",
    [
        "eval/gsm8k/loss",
        "eval/gsm8k/response_length",
        "eval/gsm8k/reward",
        "eval/gsm8k/format",
        "eval_gsm8k_loss",
        "train/gsm8k",
        "val-core/openai/gsm8k/reward/best@8/mean",
        "val-core/openai/gsm8k/acc/maj@8/mean",
        "gsm8k_platinum",
        "gsm8k-first64",
        "mgsm8k",
    ],
)
def test_another_number_is_no_score_unless_it_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, f"step,{column}\n200,0.5\n")
    with pytest.raises(CurveError, match="--map 'gsm8k=COLUMN'"):
        recorded(path)
    with pytest.raises(CurveError, match="no column 'gsm8k'"):
        recorded(path, benchmark="gsm8k")
    assert scores(path, columns=(f"gsm8k={column}",)) == {"gsm8k": 0.5}


def test_two_runs_in_one_export_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, "Step,a - eval/gsm8k,b - eval/gsm8k\n200,0.5,0.6\n")
    with pytest.raises(CurveError, match="2 columns of gsm8k: a - eval/gsm8k, b - eval/gsm8k"):
        recorded(path)
    assert scores(path, columns=("gsm8k=b - eval/gsm8k",)) == {"gsm8k": 0.6}


def test_the_name_itself_goes_before_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,eval/gsm8k,gsm8k\n200,0.5,0.6\n")
    assert scores(path) == {"gsm8k": 0.6}


@pytest.mark.parametrize("name", ["loss", "train/loss", "reward", "kl", "rewards/mean", "lr"])
def test_a_number_of_the_training_is_no_outcome_under_any_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"steps,{name}\n200,0.5\n")
    for flags in ({"benchmark": name}, {"columns": (f"gsm8k={name}",)}, {}):
        with pytest.raises(CurveError, match="training metric"):
            recorded(path, **flags)


def test_a_benchmark_that_was_not_measured_is_recorded_if_named_with_a_warning(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "steps,gsm8k,math500\n200,0.5,0.3\n")
    report = recorded(path, benchmark="math500")
    assert [outcome.benchmark for outcome, _ in report.outcomes] == ["math500"]
    assert any("was not measured on math500 before RL" in text for text in report.warnings)


@pytest.mark.parametrize(
    "header", ["steps", "step", "Step", "global_step", "_step", "train/global_step", "r - _step"]
)
def test_steps_have_the_names_that_loggers_give_them(tmp_path: Path, header: str) -> None:
    assert scores(write(tmp_path, f"{header},gsm8k\n0,0.4\n200,0.5\n")) == {"gsm8k": 0.5}


def test_the_trainers_steps_go_before_the_loggers(tmp_path: Path) -> None:
    """The `_step` of wandb counts calls of `wandb.log`."""
    path = write(tmp_path, "_step,train/global_step,gsm8k\n7,100,0.4\n9,200,0.5\n")
    assert scores(path) == {"gsm8k": 0.5}
    assert scores(path, columns=("steps=_step",), budget=9) == {"gsm8k": 0.5}


def test_steps_are_no_gpu_hours(tmp_path: Path) -> None:
    path = write(tmp_path, "Step,gsm8k\n200,0.5\n")
    with pytest.raises(CurveError, match=r"no budget column in gpu_hours.*--map gpu_hours=COLUMN"):
        recorded(path, budget_unit="gpu_hours")


def test_a_trainers_state_is_read(tmp_path: Path) -> None:
    history = [
        {"step": 0, "eval_gsm8k_accuracy": 0.4, "eval_loss": 1.5},
        {"step": 100, "loss": 0.1, "grad_norm": float("nan"), "epoch": 0.1},
        {"step": 200, "loss": 0.1, "epoch": 0.2},
        {"step": 200, "eval_gsm8k_accuracy": 0.5, "eval_loss": 1.4},
        {"step": 200, "train_runtime": 7.0},
    ]
    state = json.dumps({"global_step": 200, "log_history": history})
    report = recorded(write(tmp_path, state, "trainer_state.json"))
    assert [outcome.value for outcome, _ in report.outcomes] == [0.5]
    assert any("read as gsm8k" in note for note in report.warnings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no list `log_history`"),
        ("[1, 2]", "no list `log_history`"),
        ('{"log_history": []}', "is empty"),
        ("not JSON", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('{"log_history": [{"step": 1, "gsm8k": {"a": 1}}]}', "not a finite number"),
        ('{"log_history": [{"step": 1, "gsm8k": true}]}', "not a finite number"),
    ],
)
def test_another_json_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CurveError, match=message):
        recorded(write(tmp_path, text, "state.json"), budget=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps;gsm8k;loss\n0;0,4;1,2\n200;0,5;1,1\n", 0.5),
        ("steps\tgsm8k\n0\t0.4\n200\t0.5\n", 0.5),
        ("steps,gsm8k\r0,0.4\r200,0.5\r", 0.5),
        ('"steps","gsm8k"\n"200","0.5"\n', 0.5),
        ("steps,gsm8k,gsm8k_se\n200,0.5,NaN\n", 0.5),
        ("steps,gsm8k\n200,0.5\n200,0.5\n", 0.5),
        ("steps,gsm8k,loss\n100,0.4,1\n100,,2\n200,0.5,\n150,,3\n", 0.5),
        ("steps,gsm8k\n200,5e-1\n", 0.5),
        ("step,tag,value\n200,eval/gsm8k,0.5\n200,loss,3\n", 0.5),
        ("steps,gsm8k\n0,40%\n200,50 %\n", 0.5),
    ],
)
def test_rows_are_read_as_they_are_written(tmp_path: Path, text: str, value: float) -> None:
    assert scores(write(tmp_path, text)) == {"gsm8k": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps,gsm8k\n0,0.4\n200,0.5\n200,0.6\n", "line 4: steps is 200 again"),
        ("steps;gsm8k\n1,000;0,4\n", "line 2: steps is '1,000', which may be a decimal comma"),
        ("steps,gsm8k\n200,1_0\n", "'1_0', not a finite number"),
        ("steps,gsm8k\n200,٠\n", "not a finite number"),
        ("steps,gsm8k\n200,-0.1\n", "gsm8k is -0.1, and a score is a share"),
        ("steps,gsm8k\n200,1000\n", "gsm8k is 1000, and a score is a share"),
        ("steps,gsm8k\n0,40%\n200,0.5\n", "line 3: gsm8k is '0.5' after '40%'.*mixes"),
        ("steps,gsm8k\n0,0.4\n200,50%\n", "line 3: gsm8k is '50%' after '0.4'.*mixes"),
        ("steps,gsm8k\n200,140%\n", "gsm8k is 140, and a score is a percentage"),
        ("steps,gsm8k,gsm8k_se\n200,0.5,-0.01\n", "line 2: gsm8k_se is -0.01.*is negative"),
        (
            "steps,gsm8k,gsm8k_se\n200,0.5,1.3\n",
            "line 2: gsm8k_se is 1.3.*larger than that of any score",
        ),
        ("steps,gsm8k,gsm8k_se\n200,50%,1.3\n", "gsm8k_se is '1.3'.*in the unit of gsm8k"),
        ("steps,gsm8k\n", "holds no points"),
        ("step,benchmark,value\n200,,0.5\n", "does not name one benchmark in each row"),
    ],
)
def test_a_number_that_may_be_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CurveError, match=message):
        recorded(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps,gsm8k\n0,0.40\n200,0.55\n", "no number of gsm8k is above 1"),
        ("steps,gsm8k\n100,0.40\n200,55\n", "from 0.4 in line 2 to 55 in line 3"),
        ("steps,gsm8k\n100,55\n200,0.6\n", "from 55 in line 2 to 0.6 in line 3"),
        ("steps,gsm8k\n200,155\n", "gsm8k is 155, and a score is a percentage"),
        ("steps,gsm8k\n0,0.0\n200,-3\n", "gsm8k is -3, and a score is a percentage"),
    ],
)
def test_percentages_that_may_be_shares_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(CurveError, match=message):
        recorded(write(tmp_path, text), percent=True)


def test_small_percentages_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,aime24,aime24_se\n100,0.8,0.4\n200,3.3,1.1\n")
    ((outcome, _),) = recorded(path, percent=True).outcomes
    assert (outcome.value, outcome.se) == (pytest.approx(0.033), pytest.approx(0.011))


@given(values=st.lists(st.integers(200, 10_000), min_size=1, max_size=8))
def test_percentages_are_the_same_curve_in_three_spellings(
    tmp_path_factory: pytest.TempPathFactory, values: list[int]
) -> None:
    """As shares; with a percent sign; with a percent sign and a decimal comma."""
    folder = tmp_path_factory.mktemp("curve")
    shares = [f"{i + 1},{value / 10_000!r}" for i, value in enumerate(values)]
    signed = [f"{i + 1},{value / 100!r}%" for i, value in enumerate(values)]
    commas = [line.replace(",", ";").replace(".", ",") for line in signed]
    files = {",": shares, ", ": signed, ";": commas}
    read = [
        read_curves(write(folder, f"steps{mark}a\n" + "\n".join(lines)), "steps")["a"].points
        for mark, lines in files.items()
    ]
    for points in read[1:]:
        assert [p.value for p in points] == pytest.approx([p.value for p in read[0]])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"value": 0.61}, (0.61, None)),
        ({"value": 61, "percent": True}, (0.61, None)),
        ({"value": 61, "se": 1.3, "percent": True}, (0.61, 0.013)),
        ({"value": 1}, (1.0, None)),
        ({"value": 0, "percent": True}, (0.0, None)),
    ],
)
def test_a_single_score_is_a_share(flags: dict[str, Any], expected: tuple[float, Any]) -> None:
    ((outcome, _),) = recorded(None, benchmark="gsm8k", **flags).outcomes  # type: ignore[arg-type]
    assert (outcome.value, outcome.se) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"value": 61}, "--value is 61, and a score is a share.*add --percent"),
        ({"value": 161}, "--value is 161, and a score is a share"),
        ({"value": -0.1}, "--value is -0.1"),
        ({"value": 161, "percent": True}, "--value is 161 with --percent.*from 0 to 100"),
        ({"value": 0.61, "percent": True}, "Leave --percent out; for 0.61 % give 0.0061"),
        ({"value": 0.61, "se": 1.3}, "--se is 1.3, not a standard error of --value 0.61"),
        ({"value": 0.61, "se": -1}, "--se is -1, not a standard error"),
        ({"value": 0.61, "columns": ("gsm8k=a",)}, "--map is given without --curve"),
        ({"value": 0.61, "benchmark": "loss"}, "--benchmark loss is a training metric"),
    ],
)
def test_a_single_score_in_another_unit_is_asked_about(flags: Any, message: str) -> None:
    with pytest.raises(RlreadyError, match=message):
        recorded(None, **{"benchmark": "gsm8k", **flags})  # type: ignore[arg-type]


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(CurveError, match="larger than 67108864 bytes"):
        recorded(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["gsm8k", "=a", "gsm8k=", " = "])
def test_a_map_without_a_column_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RlreadyError, match="does not name a column"):
        recorded(write(tmp_path, "steps,a\n1,0.1\n"), columns=(text,))
