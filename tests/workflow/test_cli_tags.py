"""`rlready resolve` and `rlready tag`: what a trainer gets, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_outcome
from tag_examples import FAMILY, a_tag

from rlready.registry.digest import fingerprint
from rlready.registry.mlflow_store.readiness import put_tags
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.readiness_tag import Readiness, ReadinessTag
from rlready.registry.records import Checkpoint, Evaluation
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main

Run = Callable[..., Result]
REFERENCE = f"models:/{FAMILY}@rl-ready"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    return lambda *flags: CliRunner().invoke(main, [str(flag) for flag in flags])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real weights, in a folder whose name a URI has to quote."""
    return untrained_checkpoint(tmp_path / "sft run 1")


@pytest.fixture
def store(sqlite_uri: str, folder: Path) -> MlflowStore:
    """A registry whose alias rl-ready is on the checkpoint in that folder."""
    made = MlflowStore(sqlite_uri)
    checkpoint = the_checkpoint(folder)
    made.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=(a_proxy(),)))
    put_tags(made, [the_tag(checkpoint)])
    return made


def the_checkpoint(folder: Path) -> Checkpoint:
    return a_checkpoint(1, uri=folder.as_uri(), fingerprint=fingerprint(folder))


def the_tag(checkpoint: Checkpoint, **changes: object) -> ReadinessTag:
    return a_tag(1, checkpoint_id=checkpoint.id, **changes)


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return " ".join(result.output.split())


def test_the_path_stands_alone_on_stdout(run: Run, store: MlflowStore, folder: Path) -> None:
    done = run("resolve", REFERENCE)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{folder}\n", "")


def test_json_says_the_rest(run: Run, store: MlflowStore, folder: Path) -> None:
    said = json.loads(run("resolve", FAMILY, "--json").stdout)
    checkpoint = the_checkpoint(folder)
    assert (said["path"], said["checkpoint_id"]) == (str(folder), checkpoint.id)
    assert (said["version"], said["aliases"]) == (f"models:/{FAMILY}/1", ["rl-ready"])
    assert said["tag"] == json.loads(json.dumps(the_tag(checkpoint).to_dict()))
    assert said["tag"]["readiness"] == "READY"


def test_what_is_not_ready_is_noted_beside_the_path(
    run: Run, store: MlflowStore, folder: Path
) -> None:
    put_tags(store, [the_tag(the_checkpoint(folder), readiness=Readiness.UNDECIDED)])
    done = run("resolve", f"models:/{FAMILY}/1")
    assert done.stdout == f"{folder}\n"
    assert "is UNDECIDED" in done.stderr


def test_an_alias_whose_checkpoint_has_got_its_run_is_refused(
    run: Run, store: MlflowStore, folder: Path
) -> None:
    """A trainer would repeat the run; the version alone says what is wanted."""
    checkpoint = the_checkpoint(folder)
    target = the_tag(checkpoint).target
    store.put_outcome(an_outcome(1, checkpoint_id=checkpoint.id, value=0.6))
    assert f"which had its RL run: {target} is 0.6" in refused(run("resolve", REFERENCE))
    assert "--allow-trained" in refused(run("resolve", FAMILY))
    for flags in ((REFERENCE, "--allow-trained"), (f"models:/{FAMILY}/1",)):
        done = run("resolve", *flags)
        assert (done.exit_code, done.stdout) == (0, f"{folder}\n")
        assert "had its RL run" in done.stderr
    assert json.loads(run("resolve", f"{FAMILY}/1", "--json").stdout)["is_trained"]


def test_weights_that_are_gone_are_told(run: Run, store: MlflowStore, folder: Path) -> None:
    shutil.rmtree(folder)
    assert f"are gone: there is no folder {folder}" in refused(run("resolve", REFERENCE))


def test_weights_that_were_replaced_are_refused(run: Run, store: MlflowStore, folder: Path) -> None:
    other = untrained_checkpoint(folder.parent / "other", seed=1)
    (other / "model.safetensors").replace(folder / "model.safetensors")
    assert "does not hold the weights of checkpoint" in refused(run("resolve", REFERENCE))


def test_a_pickle_beside_the_alias_is_refused(run: Run, store: MlflowStore, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights only" in refused(run("resolve", REFERENCE))


def test_a_reference_to_nothing_lists_what_there_is(run: Run, store: MlflowStore) -> None:
    assert f"there are 1: {FAMILY} @rl-ready" in refused(run("resolve", "models:/x@rl-ready"))


def test_a_scheme_that_cannot_be_fetched_is_told(run: Run, store: MlflowStore) -> None:
    remote = a_checkpoint(2, uri="s3://bucket/weights")
    store.put_evaluation(Evaluation(checkpoint=remote, proxies=(a_proxy(),)))
    put_tags(store, [a_tag(2)], name="remote")
    assert "at s3://bucket/weights" in refused(run("resolve", "remote"))


@pytest.mark.slow
def test_a_ranking_is_tagged_and_its_best_is_resolved(
    run: Run, sqlite_uri: str, folder: Path
) -> None:
    """The whole way: registry, fit, tag, resolve. Only the best checkpoint has real weights."""
    store = MlflowStore(sqlite_uri)
    for number in range(1, 11):
        quality = number / 12
        checkpoint = the_checkpoint(folder) if number == 10 else a_checkpoint(number)
        proxies = (
            a_proxy(value=quality, se=0.01),
            a_proxy(name="pass_at_1", value=quality / 2 + 0.02 * (number % 2), se=0.01),
        )
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        if number < 9:
            value = 0.2 + 0.5 * quality + 0.01 * (number % 3)
            store.put_outcome(an_outcome(number, value=value))
    done = run("fit")
    assert done.exit_code == 0, done.output
    dry = json.loads(run("tag", "--dry-run", "--json").stdout)
    first, again = (json.loads(run("tag", "--json").stdout) for _ in range(2))
    (family,) = first["families"]
    assert (family["name"], len(family["tagged"])) == (FAMILY, 10)
    assert [t["readiness"] for t in family["tagged"]] == [
        t["readiness"] for t in dry["families"][0]["tagged"]
    ]
    assert all(t["predictor_version"] == "1" and t["reasons"] for t in family["tagged"])
    assert not any(t["is_new"] or t["is_changed"] for t in again["families"][0]["tagged"])
    best = family["tagged"][0]
    assert (best["checkpoint_id"], best["readiness"]) == (the_checkpoint(folder).id, "READY")
    assert run("resolve", REFERENCE).stdout == f"{folder}\n"
    assert "tagged in" in run("tag").stdout
