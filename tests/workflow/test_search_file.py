"""What a space file says beyond its recipes: local data, a cost, how checkpoints are evaluated."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from store_child import a_checkpoint, an_outcome

from rlready.predictors.search.space_file import SpaceFile, write_template
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.registry.toml_file import read_toml_file
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main
from rlready.workflow.search.evaluate_table import evaluate_settings
from rlready.workflow.search.folder import write_text
from rlready.workflow.search.open import Search, SearchConfig, open_search

SPACE = """
{top}
[recipe]
base_model = "org/base"
[sources.gsm8k]
{source}
[sources.numina]
floor = 0.1
[n_unique]
low = 10
high = 1000
[learning_rate]
low = 1e-6
high = 1e-4
{rest}
"""

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls `rlready search` on the space file of the folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Result:
        return CliRunner().invoke(main, ["search", *map(str, words), "--space", "mix.toml"])

    return run


def write_space(folder: Path, *, top: str = "", source: str = "", rest: str = "") -> Path:
    path = folder / "mix.toml"
    path.write_text(SPACE.format(top=top, source=source, rest=rest))
    return path


def opened(path: Path) -> Search:
    storage = f"sqlite:///{path.parent / 'search.db'}"
    return open_search(SearchConfig(space=path, storage=storage))


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    rest = """
[evaluate]
benchmarks = ["gsm8k=data/gsm8k.jsonl", "/abs/aime.jsonl"]
held_out = ["val=val.jsonl"]
samples = 8
k = [1, 4]
temperature = 1
prompt_template = "prompt.txt"
"""
    search = opened(write_space(tmp_path, source='path = "gsm8k.jsonl"', rest=rest))
    assert [(each.name, each.path) for each in search.data] == [("gsm8k", tmp_path / "gsm8k.jsonl")]
    assert [each.name for each in search.benchmarks] == ["gsm8k", "aime"]
    assert search.evaluate == {
        "benchmarks": (f"gsm8k={tmp_path}/data/gsm8k.jsonl", "aime=/abs/aime.jsonl"),
        "held_out": (f"val={tmp_path}/val.jsonl",),
        "samples": 8,
        "k": (1, 4),
        "temperature": 1.0,
        "prompt_template": tmp_path / "prompt.txt",
    }


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("[evaluate]\nsample = 8", r"unknown key 'sample'.*max_tokens.*held_out|held_out.*samples"),
        ('[evaluate]\nsamples = "8"', r"evaluate\.samples is '8'\. It should be a valid integer"),
        ("[evaluate]\nadaptive = 1", r"evaluate\.adaptive is 1\. It should be a valid boolean"),
        ('[evaluate]\nheld_out = "x"', r"evaluate\.held_out is 'x'\. It should be a valid tuple"),
        ('[evaluate]\nheld_out = [""]', r"evaluate\.held_out\[0\] is ''"),
        ("[evaluate]\nprompt_template = 3", r"evaluate\.prompt_template is 3"),
        ("[evaluate]\nsuite = ''", r"evaluate\.suite is ''"),
        ("[evaluate]\nsamples = 0", "--samples is 0"),
        ('[evaluate]\nrecipe = "x.toml"', "unknown key 'recipe'"),
    ],
)
def test_a_mistake_in_evaluate_is_told_at_once(
    call: Call, tmp_path: Path, rest: str, said: str
) -> None:
    path = write_space(tmp_path, rest=rest)
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        opened(path)
    assert "mix.toml" in refused(call("ask", "--cold"))


def test_a_source_with_a_path_gives_trials_a_manifest(call: Call, tmp_path: Path) -> None:
    """The flag wins, so that another machine can have its data elsewhere."""
    for name in ("here.jsonl", "there.jsonl"):
        rows = ({"prompt": f"{i} + 1 =", "response": str(i + 1)} for i in range(500))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_space(tmp_path, source='path = "here.jsonl"')
    for flags, name in ([], "here.jsonl"), (["--data", "gsm8k=there.jsonl"], "there.jsonl"):
        trial = answer(call("ask", "--cold", "--json", *flags))["trials"][0]
        made = json.loads((Path(trial["folder"]) / "manifest.json").read_text())
        assert [Path(source["path"]).name for source in made["sources"]] == [name]


def test_a_cost_is_a_second_objective_with_a_front(call: Call, tmp_path: Path) -> None:
    write_space(tmp_path, top='cost = "gpu_hours"')
    asked = answer(call("ask", "--cold", "--trials", 4, "--sampler", "random", "--json"))["trials"]
    assert "gpu_hours None" in refused(call("tell", 0, "--cold", "--value", 0.5))
    told = answer(call("tell", 0, "--cold", "--value", 0.5, "--cost", 2.0, "--json"))
    assert (told["value"], told["cost"]) == (0.5, 2.0)
    for trial, (value, hours) in zip(asked[1:], [(0.7, 4.0), (0.6, 3.0), (0.4, 9.0)], strict=True):
        said = json.dumps({"value": value, "se": 0.01, "gpu_hours": hours})
        (Path(trial["folder"]) / "status.json").write_text(said)
    assert len(answer(call("sync", "--cold", "--json"))["done"]) == 3
    report = answer(call("report", "--cold", "--json"))
    rows = {row["trial"]: row for row in report["ranking"]}
    assert {number: row["cost"] for number, row in rows.items()} == {0: 2.0, 1: 4.0, 2: 3.0, 3: 9.0}
    assert rows[1]["on_front"]
    assert not rows[3]["on_front"]
    assert all(row["cost_sd"] > 0.0 for row in report["ranking"] + report["untried"])
    assert (tmp_path / "search/mix/report/front.png").stat().st_size > 5_000
    assert "gpu_hours" in call("report", "--cold").stdout
    # The surrogate proposes with both objectives.
    assert answer(call("ask", "--cold", "--json"))["trials"]


def test_a_cost_without_a_cost_in_the_space_is_refused(call: Call, tmp_path: Path) -> None:
    write_space(tmp_path)
    call("ask", "--cold")
    assert "the search has none" in refused(call("tell", 0, "--cold", "--value", 1, "--cost", 2))


@pytest.mark.slow
def test_a_trained_folder_is_evaluated_registered_and_predicted(
    call: Call, tmp_path: Path, sqlite_uri: str
) -> None:
    rows = [{"prompt": f"{i}+2 mod 10", "response": str((i + 2) % 10)} for i in range(8)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = untrained_checkpoint(tmp_path / "weights")
    here = ("--tracking-uri", sqlite_uri, "--json")
    write_space(tmp_path)
    trial = answer(call("ask", *here))["trials"][0]
    (weights.rename(Path(trial["folder"]) / "weights"))
    assert "[evaluate] with for example" in refused(
        call("tell", 0, "--checkpoint", "weights", *here)
    )

    write_space(tmp_path, rest='[evaluate]\nheld_out = ["val.jsonl"]')
    (Path(trial["folder"]) / "status.json").write_text('{"checkpoint": "weights"}')
    asking = answer(call("ask", *here))
    assert "rlready search sync" in asking["problems"][0][1]
    (told,) = answer(call("sync", *here))["done"]
    assert told["is_predicted"]
    assert "from public outcomes" in told["public"]

    store = MlflowStore(sqlite_uri)
    (own,) = [one for one in store.checkpoints() if one.checkpoint.name == "mix-trial-0000"]
    assert own.checkpoint.recipe == Recipe.from_dict(trial["recipe"])
    for number in range(1, 12):
        proxies = [
            dataclasses.replace(p, value=p.value * (0.8 + 0.04 * number)) for p in own.proxies
        ]
        store.put_evaluation(
            Evaluation(checkpoint=a_checkpoint(number), proxies=tuple(proxies), config={})
        )
        store.put_outcome(an_outcome(number, value=0.3 + 0.03 * number, se=0.005))
    fitted = CliRunner().invoke(main, ["fit", "--tracking-uri", sqlite_uri, "--json"])
    assert fitted.exit_code == 0, fitted.output
    (second,) = answer(call("ask", *here))["trials"]
    call("tell", second["trial"], "--value", 0.5, *here)
    ranking = answer(call("report", *here))["ranking"]
    assert [row["basis"] for row in ranking] == ["outcome", "prediction"]
    assert ranking[1]["value"] == pytest.approx(0.45, abs=0.1)


def test_two_workers_that_write_one_file_at_once_do_not_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They used one name for the unfinished file, and the slower worker found it renamed."""
    replace, calls = Path.replace, []

    def slow_replace(self: Path, target: Path) -> Path:
        if not calls:
            calls.append(target)
            write_text(tmp_path / "status.json", "second")  # another worker, in between
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", slow_replace)
    write_text(tmp_path / "status.json", "first")
    assert (tmp_path / "status.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_init_writes_a_space_from_which_a_trial_is_asked(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(main, ["search", "init"])
    assert result.exit_code == 0, result.output
    assert "rlready search ask --space space.toml" in result.stdout
    asked = CliRunner().invoke(main, ["search", "ask", "--cold", "--sampler", "random", "--json"])
    assert asked.exit_code == 0, asked.output
    (trial,) = json.loads(asked.stdout)["trials"]
    recipe = Path(trial["folder"], "recipe.toml").read_text()
    assert 'base_model = "org/base"' in recipe
    assert "warmup_share" in recipe


def test_every_optional_setting_of_the_template_is_accepted(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    write_template(path)
    path.write_text(re.sub(r"^#(?! )", "", path.read_text(), flags=re.MULTILINE))
    file = read_toml_file(path, SpaceFile)
    assert set(SpaceFile.model_fields) == file.model_fields_set
    assert file.recipe_space().sources[0].name == "gsm8k"
    assert evaluate_settings(file.evaluate or {}, tmp_path)["samples"] == 64
    for source in file.sources.values():
        assert source.mean_tokens


@pytest.mark.parametrize("words", [["mine.toml"], ["--space", "mine.toml"]])
def test_init_never_changes_an_existing_file(call: Call, tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("# mine")
    result = CliRunner().invoke(main, ["search", "init", *words])
    assert result.exit_code == 2
    assert "mine.toml exists already, and is not changed" in result.output
    assert path.read_text() == "# mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init", "no/such/folder.toml"], "cannot write no/such/folder.toml. No such file"),
        (["ask"], "the space file space.toml does not exist. Name yours with --space, or write"),
        (["tell", "seven", "--value", "1"], "'seven' is not the number of a trial"),
        (["ask", "7"], "ask takes no trial"),
        (["init", "--value", "1"], "init takes no trial, --value"),
        (["ask", "--study", "a\nb"], "'a\\nb' is not a name for a study"),
        (["ask", "--out", "a.file"], "a.file is a file, and the trials need a folder of this name"),
    ],
)
def test_mistakes_around_the_space_file_are_named(
    call: Call, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "a.file").touch()
    result = CliRunner().invoke(main, ["search", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
