"""Kinds of columns and awkward data on the command line: what is printed and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.cli.main import main
from rlready.workflow.flags import split_kinds

Run = Callable[..., Result]

TABLE = """name,base,Pass@1,avg@16,pre_kl,pre__avg__ent,math500,style,val_loss,post
m1,q,10%,0.11,0.1,0.5,n/a,3,0.9,0.50
m2,q,12%,0.13,0.2,0.6,41,1,0.8,0.52
m3,q,14%,-,0.1,0.4,45,4,0.7,0.56
m4,q,18%,0.19,0.4,0.7,47,1,0.65,0.60
m5,l,20%,0.21,0.1,0.2,52,5,0.6,0.61
m6,l,22%,0.24,0.3,0.8,,9,0.55,0.64
m7,l,27%,0.28,0.1,0.1,60,2,0.5,0.66
m8,l,30%,0.29,0.2,0.6,63,6,0.45,0.7
"""
PROXIES = "Pass@1,avg@16,pre_kl,pre__avg__ent,math500,style,val_loss"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    return lambda *flags: CliRunner().invoke(main, [str(flag) for flag in flags])


def validate(run: Run, text: str, *more: str) -> Result:
    Path("t.csv").write_text(text)
    flags = ("--target", "post", "--features", PROXIES, "--names", "name", "--splits", "loo")
    return run("validate", "--table", "t.csv", *flags, *more)


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.stderr.split())


def put(number: int, **changes: object) -> None:
    """A checkpoint with two proxies and an outcome, in the registry of the environment."""
    content, base = str(changes.get("content", "b2" * 16)), str(changes.get("base", "q"))
    benchmark = str(changes.get("benchmark", "gsm8k"))
    proxies = [a_proxy(name="pass_at_1", value=0.3 + 0.01 * number, se=0.02)]
    if not changes.get("lacks"):
        proxies.append(a_proxy(value=0.7 - 0.01 * (number % 5), se=0.02))
    proxies = [
        a_proxy(name=p.name, value=p.value, se=p.se, benchmark=benchmark, benchmark_digest=content)
        for p in proxies
    ]
    recipe = Recipe(base_model=base, sources={"numina": 1.0}, learning_rate=1e-5)
    checkpoint = a_checkpoint(number, recipe=recipe, name=f"sft-{number:02d}")
    store = MlflowStore()
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=tuple(proxies)))
    value = changes.get("value", 0.5 + 0.02 * number + 0.001 * (number % 3))
    store.put_outcome(an_outcome(number, value=value, se=0.005))


def test_the_kinds_that_are_taken_are_printed(run: Run) -> None:
    text = " ".join(validate(run, TABLE).stdout.split())
    assert "percent, higher is better: Pass@1, math500; accuracy, higher is better: avg@16" in text
    assert (
        "plain, no direction: pre_kl, pre__avg__ent, style; loss, lower is better: val_loss" in text
    )
    assert "no known word in style" in text
    assert "note: Pass@1: 8 numbers with a percent sign read as percent" in text
    assert "note: avg@16: 1 '-' read as missing" in text
    assert "note: math500 is missing for 2 of 8 checkpoints: m1, m6" in text


def test_a_stated_kind_is_taken_and_stands_in_the_json(run: Run) -> None:
    done = validate(run, TABLE, "--kind", "style=count:-,pre_kl=plain:+", "--json")
    kinds = json.loads(done.stdout)["kinds"]
    assert kinds["style"] == {"kind": "count", "sign": "-", "basis": "stated"}
    assert kinds["pre_kl"] == {"kind": "plain", "sign": "+", "basis": "stated"}
    assert kinds["avg@16"] == {"kind": "accuracy", "sign": "+", "basis": "name"}
    assert kinds["pre__avg__ent"] == {"kind": "plain", "sign": "0", "basis": "name"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("style=rate", "there is no kind 'rate'. Known: loss (numbers above 0), accuracy"),
        ("nope=loss", "no column 'nope' among the proxies and the target. They are Pass@1, avg@16"),
        ("style", "does not say which column is of which kind"),
        ("math500=accuracy", "the column holds 41.*Write --kind math500=percent"),
    ],
)
def test_a_wrong_kind_is_refused(run: Run, kind: str, message: str) -> None:
    error = refused(validate(run, TABLE, "--kind", kind))
    assert all(part in error for part in message.split(".*"))


def test_a_comma_in_a_column_does_not_end_a_kind() -> None:
    texts = ["a=loss,exact_match,strict=accuracy:+", "b=plain"]
    assert list(split_kinds(texts)) == ["a=loss", "exact_match,strict=accuracy:+", "b=plain"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("0.19", "about"), "'avg@16' is not numeric: row 4 (m4) holds 'about'"),
        (TABLE.replace("12%", "12"), "'Pass@1' mixes numbers with and without a percent sign"),
        (
            TABLE.replace("0.50\n", "50\n").replace("0.61\n", "61\n"),
            "percentages: 50 in row 1 (m1), 61 in row 5 (m5)",
        ),
        ("\n".join(f"{line[:-3]}.5" for line in TABLE.splitlines()), "no column 'post'"),
    ],
)
def test_a_table_with_wrong_cells_is_refused(run: Run, text: str, message: str) -> None:
    assert message in refused(validate(run, text))


def test_a_table_without_outcome_or_group_is_refused(run: Run) -> None:
    for flag in ("--group", "--target"):
        error = refused(validate(run, TABLE, flag, "nope"))
        assert f"no column 'nope', which {flag} names" in error
        assert "Its columns: name" in error
    empty = "\n".join(f"{line.rpartition(',')[0]},n/a" for line in TABLE.splitlines()[1:])
    empty = f"{TABLE.splitlines()[0]}\n{empty}\n"
    assert "no row has a number in the target column 'post'" in refused(validate(run, empty))
    error = refused(validate(run, TABLE, "--splits", "group"))
    assert "needs two groups" in error
    assert "with --group" in error


def test_equal_outcomes_are_refused(run: Run) -> None:
    lines = [f"{line.rpartition(',')[0]},0.6" for line in TABLE.splitlines()[1:]]
    text = "\n".join([TABLE.splitlines()[0], *lines]) + "\n"
    assert "all 8 outcomes are 0.6" in refused(validate(run, text))
    for number in range(1, 7):
        put(number, value=0.6)
    assert "all 6 outcomes are 0.6" in refused(run("fit"))


def test_equal_proxies_are_refused(run: Run) -> None:
    rows = [f"m{i},0.4,0.9,{0.5 + i / 50}" for i in range(6)]
    Path("t.csv").write_text("\n".join(["name,pass_at_1,val_loss,post", *rows]) + "\n")
    flags = ("--target", "post", "--features", "pass_at_1,val_loss")
    error = refused(run("validate", "--table", "t.csv", *flags))
    assert "all 6 checkpoints with an outcome have the same proxies: pass_at_1 0.4" in error
    assert "name others with --features" in error


def test_a_holdout_in_another_unit_is_refused(run: Run) -> None:
    rows = [line.split(",") for line in TABLE.splitlines()]
    shares = [",".join([*r[:6], f"0.{r[6][:1] or 4}".replace("n", "4"), *r[7:]]) for r in rows[1:]]
    Path("h.csv").write_text("\n".join([TABLE.splitlines()[0], *shares]) + "\n")
    error = refused(validate(run, TABLE, "--holdout", "h.csv"))
    assert "'math500' holds shares from 0 to 1, in the table percentages" in error
    assert "--kind math500=percent" in error


def test_checkpoints_of_different_contents_are_named_and_never_pooled(run: Run) -> None:
    for number in range(1, 9):
        put(number, content=("b2" if number % 2 else "c7") * 16)
    for command in (("fit",), ("validate", "--splits", "loo")):
        error = refused(run(*command))
        assert (
            "different contents of gsm8k: b2b2b2b2b2b2 (sft-01, sft-03, sft-05, sft-07), " in error
        )
        assert "c7c7c7c7c7c7 (sft-02, sft-04, sft-06, sft-08): " in error
        assert "never pooled" in error


def test_checkpoints_without_a_common_proxy_are_refused(run: Run) -> None:
    for number in range(1, 7):
        put(number, benchmark=f"b{number}")
    error = refused(run("fit"))
    assert "no two checkpoints have a proxy in common: sft-01 has pass_at_1@b1" in error


def test_kinds_are_taken_and_printed_before_a_predictor_is_fitted(run: Run) -> None:
    for number in range(1, 5):
        put(number, content=("b2" if number < 4 else "c7") * 16)
    done = run("rank", "--kind", "pass_at_64@gsm8k=plain:+", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["kinds"]["pass_at_64@gsm8k"] == {"kind": "plain", "sign": "+", "basis": "stated"}
    notes = " ".join(found["notes"])
    assert "different contents of gsm8k: b2b2b2b2b2b2 (sft-01, sft-02, sft-03), c7c7c7c7" in notes
    assert "are missing for 1 of 4 checkpoints: sft-04" in notes
    assert "no kind 'rate'" in refused(run("rank", "--kind", "pass_at_1@gsm8k=rate"))


@pytest.mark.slow
def test_fit_names_checkpoints_that_lack_a_proxy_and_keeps_stated_kinds(run: Run) -> None:
    for number in range(1, 9):
        put(number, base="llama" if number == 8 else "q", lacks=number in (2, 5))
    kind = ("--kind", "pass_at_64@gsm8k=accuracy:0")
    done = run("fit", *kind)
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "note: pass_at_64@gsm8k is missing for 2 of 8 checkpoints: sft-02, sft-05" in text
    assert "accuracy, higher is better: pass_at_1@gsm8k; share, no direction: pass_at_64" in text
    again = json.loads(run("fit", *kind, "--json").stdout.splitlines()[-1])
    assert again["kinds"]["pass_at_64@gsm8k"]["basis"] == "stated"
    assert not again["is_new"]
    assert run("rank").exit_code == 0
    assert "has the kinds of its fit" in refused(run("rank", *kind))
    assert "group llama has one checkpoint" in refused(run("rank", "--group", "llama"))
