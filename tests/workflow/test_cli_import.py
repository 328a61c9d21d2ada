"""`rlready import` and `rlready export`: what they store, print and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from places import DATA
from store_child import a_checkpoint, a_proxy

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation
from rlready.workflow.cli.main import main

Run = Callable[..., Result]
FILES = DATA / "importers"
TRAINERS = FILES / "trainers"
NAME = a_checkpoint(1).name


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    """A registry with one SFT checkpoint, measured on gsm8k."""
    made = MlflowStore(sqlite_uri)
    proxy = a_proxy(name="pass_at_1", value=0.4)
    made.put_evaluation(Evaluation(checkpoint=a_checkpoint(1), proxies=(proxy,)))
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    return lambda *words: CliRunner().invoke(main, ["import", *map(str, words), "--no-check"])


def proxies_of(store: MlflowStore) -> dict[tuple[str, str], float]:
    return {(p.name, p.benchmark): p.value for p in store.find(NAME).proxies}


def stored(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["stored"]


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_samples_become_proxies_and_an_outcome(store: MlflowStore, run: Run) -> None:
    """Step 0 measures the checkpoint; the curve of pass@1 gives the outcome at the last step."""
    place = stored(run("skyrl", TRAINERS / "skyrl", "--checkpoint", NAME, "--json"))
    assert proxies_of(store)["pass_at_4", "toy_math"] == 0.75
    (outcome,) = place["outcomes"]
    assert (outcome["key"], outcome["value"]) == ("value_at_budget/20steps@toy_math", 0.6875)
    assert outcome["se"] == pytest.approx(0.1875, abs=1e-3)
    proxy = next(p for p in store.find(NAME).proxies if p.name == "pass_at_2")
    assert outcome["benchmark_digest"] == proxy.benchmark_digest
    assert outcome["protocol_digest"] == proxy.protocol_digest


def test_the_same_import_twice_stores_nothing_new(store: MlflowStore, run: Run) -> None:
    words = ("skyrl", TRAINERS / "skyrl", "--checkpoint", NAME, "--json")
    assert stored(run(*words))["evaluation"]["is_new"]
    before = store.find(NAME)
    again = stored(run(*words))
    assert not again["evaluation"]["is_new"]
    assert [each["is_new"] for each in again["outcomes"]] == [False]
    after = store.find(NAME)
    assert (after.proxies, after.outcomes) == (before.proxies, before.outcomes)
    assert len(store.evaluations()) == 2


def test_an_evaluation_becomes_proxies_of_both_verdicts(
    store: MlflowStore, run: Run, sqlite_uri: str
) -> None:
    words = ["import", "lm-eval", str(FILES / "lm_eval"), "--checkpoint", NAME]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    values = proxies_of(store)
    for k, expected in {1: 0.425, 2: 0.557142857, 4: 0.685714286, 8: 0.8}.items():
        assert values[f"pass_at_{k}", "toy_math"] == pytest.approx(expected, abs=1e-9)
        assert values[f"rechecked_pass_at_{k}", "toy_math"] == pytest.approx(expected, abs=1e-9)
    proxy = next(p for p in store.find(NAME).proxies if p.name == "pass_at_8")
    assert (proxy.n_problems, proxy.n_samples) == (5, 40)


def test_without_a_checkpoint_nothing_is_stored(store: MlflowStore, run: Run) -> None:
    before = store.find(NAME)
    result = run("auto", TRAINERS / "areal")
    assert result.exit_code == 0
    assert "nothing was stored: name the checkpoint" in result.stdout
    assert "not known" in result.stdout
    assert store.find(NAME) == before


def test_a_checkpoint_that_is_not_registered_is_named(store: MlflowStore, run: Run) -> None:
    message = refused(run("skyrl", TRAINERS / "skyrl", "--checkpoint", "sft-9"))
    assert "no checkpoint 'sft-9' in the registry" in message
    assert "rlready list" in message


@pytest.mark.parametrize(
    ("tool", "folder", "name"),
    [
        ("openrlhf", "openrlhf", "toy_math"),
        ("slime", "slime", "toy_math"),
        ("tinker", "tinker", "all"),
        ("areal", "areal", "eval-rollout"),
        ("trl", "trl", "accuracy_reward"),
        ("ms-swift", "ms_swift", "MathAccuracy"),
    ],
)
def test_a_name_that_is_not_a_benchmark_needs_a_map(
    store: MlflowStore, run: Run, tool: str, folder: str, name: str
) -> None:
    words = (tool, TRAINERS / folder, "--checkpoint", NAME)
    before = store.find(NAME)
    message = refused(run(*words))
    assert f"was measured on gsm8k; the files hold {name}" in message
    assert f"--map '{name}=BENCHMARK'" in message
    assert store.find(NAME) == before
    (outcome,) = stored(run(*words, "--map", f"{name}=toy", "--json"))["outcomes"]
    assert (outcome["key"], outcome["value"]) == ("value_at_budget/20steps@toy", 0.6875)


def test_a_map_of_an_unknown_name_lists_the_names(store: MlflowStore, run: Run) -> None:
    message = refused(run("slime", TRAINERS / "slime", "--checkpoint", NAME, "--map", "x=gsm8k"))
    assert "--map names 'x', which the files do not hold. They hold toy_math" in message


def test_a_curve_in_another_unit_than_the_checkpoint_is_refused(
    store: MlflowStore, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "wandb_history.jsonl"
    path.write_text(
        "".join(
            json.dumps({"eval/step": step, "eval/gsm8k": value}) + "\n"
            for step, value in ((0, 0.004), (20, 0.0045))
        )
    )
    message = refused(run("slime", path, "--checkpoint", NAME))
    assert "begins with 0.004 at budget 0, and the checkpoint's pass@1 on gsm8k is 0.4" in message


def test_two_runs_in_one_file_need_a_choice(store: MlflowStore, run: Run) -> None:
    words = ("verl", TRAINERS / "skyrl_csv" / "wandb_export.csv", "--checkpoint", NAME)
    words = (*words, "--map", "MATH500=math500")
    assert "Choose one: --run 'runA'" in refused(run(*words))
    (outcome,) = stored(run(*words, "--run", "runB", "--json"))["outcomes"]
    assert outcome["value"] == 0.5


def test_a_training_reward_is_not_an_outcome(store: MlflowStore, run: Run) -> None:
    message = refused(run("ms-swift", TRAINERS / "ms_swift", "--checkpoint", NAME,
                          "--map", "MathAccuracy=reward"))  # fmt: skip
    assert "the training reward is not an outcome" in message or "training metric" in message


def test_rollouts_of_training_prompts_need_a_map(store: MlflowStore, run: Run) -> None:
    words = ("open-instruct", TRAINERS / "open_instruct" / "rollouts", "--checkpoint", NAME)
    assert "toy_math may be on the prompts that RL trained on" in refused(run(*words))
    place = stored(run(*words, "--map", "toy_math=toy_math", "--json"))
    assert place["outcomes"][0]["value"] == 0.6875


def test_best_at_n_is_never_stored(store: MlflowStore, run: Run) -> None:
    """Verl draws it with replacement: 0.905273 at step 20, where pass@4 is 1."""
    stored(run("verl", TRAINERS / "verl", "--checkpoint", NAME, "--json"))
    found = store.find(NAME)
    values = {p.value for p in found.proxies} | {o.value for o in found.outcomes}
    assert not values & {0.669922, 0.59375, 0.905273, 0.796875, 0.6}
    assert len(found.outcomes) == 1


def test_the_report_is_one_object(run: Run) -> None:
    values = json.loads(run("prime-rl", TRAINERS / "prime_rl", "--json").stdout)
    (benchmark,) = values["benchmarks"]
    assert [row["c"] for row in benchmark["steps"][0]["counts"]] == [0, 1, 3, 4]
    assert benchmark["steps"][1]["metrics"]["signal_share_4"]["value"] == 0.5
    assert values["stored"] is None
    assert {curve["meaning"] for curve in values["curves"]} == {"mean", "pass@k"}


def test_flags_that_contradict_each_other_are_refused(run: Run) -> None:
    assert "--verdicts rlready is given with --no-check" in refused(
        run("auto", TRAINERS / "skyrl", "--verdicts", "rlready")
    )
    assert "does not name a benchmark" in refused(run("auto", TRAINERS / "skyrl", "--map", "x"))


def test_an_export_is_read_by_import_registry(store: MlflowStore, run: Run, tmp_path: Path) -> None:
    stored(run("skyrl", TRAINERS / "skyrl", "--checkpoint", NAME, "--json"))
    result = CliRunner().invoke(main, ["export", "backup", "--json"])
    assert json.loads(result.stdout)["outcomes"] == 1
    result = run("registry", "backup", "--experiment", "copy", "--json")
    assert json.loads(result.stdout)["n_new"] == 3
    copy = MlflowStore(store.tracking_uri, "copy")
    assert [(c.checkpoint, c.proxies, c.outcomes) for c in copy.checkpoints()] == [
        (c.checkpoint, c.proxies, c.outcomes) for c in store.checkpoints()
    ]
    assert "--checkpoint is given" in refused(run("registry", "backup", "--checkpoint", NAME))


ODD = {
    "cut.eval": b"PK\x03\x04xxx",
    "cut.parquet": b"PAR1xxxxPAR1",
    "cut.json": '{"evaluation_data": [{',
    "empty.jsonl": "",
    "latin.csv": "problem,n,c\n\xe4,1,1\n".encode("latin-1"),
    "numbers.jsonl": "[1, 2]\n",
    "deep.jsonl": "[" * 500 + "]" * 500 + "\n",
    "verl.jsonl": '{"input": [{"role": 3}], "output": "b", "score": 1, "step": 0}\n',
    "trace.jsonl": '{"traces": [{}]}\n',
    "state.json": '{"log_history": [1]}',
    "samples_x.jsonl": '{"doc_id": [], "resps": {}, "filtered_resps": 1}\n',
    "evaluation_data.json": '{"evaluation_data": {}}',
    "val_data_step1.jsonl": '{"content": [], "rewards": [], "idx": 0}\n',
    "completions.jsonl": '{"step": ["x"], "prompt": [1], "completion": [2], "r": [1]}\n',
    "counts.csv": "problem,n,c\n,,\n",
    "log.json": '{"eval": 1, "samples": [{}], "status": "x"}',
    "rollout.jsonl": '{"example_id": 1, "reward": "x"}\n',
    "swift.jsonl": '{"global_step/max_steps": "x", "rewards/a/mean": 0.1}\n',
    "slime.jsonl": '{"eval/step": null, "eval/a": 0.5}\n',
    "huge.jsonl": '{"eval/step": 1, "eval/a": 1e999}\n',
    "logger.jsonl": '{"step": 1, "data": []}\n',
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_gives_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = ODD[name]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(main, ["import", "auto", name, "--no-check", "--json"])
    message = refused(result)
    assert name in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
