"""Readiness tags: what MLflow's registry holds of a ranking, and what a reference leads back to."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import client_of, new_experiment
from places import SUPPORT
from store_child import a_checkpoint, an_evaluation, forked
from tag_examples import FAMILY, NOT_READY, NOW, UNDECIDED, a_tag

from rlready.registry.errors import RecordError, StoreError
from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.pages.descriptions import (
    SIGNATURE,
    escaped,
    family_description,
    tagged_version_description,
)
from rlready.registry.mlflow_store.readiness import (
    TaggedFamily,
    family_name,
    put_tags,
    resolve,
)
from rlready.registry.mlflow_store.record_tags import RL_READY, TAG, read_tag, version_tags
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.readiness_tag import ALIAS, ReadinessTag, says_the_same
from rlready.registry.records import Recipe


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    """A registry with three checkpoints of one base model."""
    made = MlflowStore(sqlite_uri)
    for number in (1, 2, 3):
        made.put_evaluation(an_evaluation(number))
    return made


def put(store: MlflowStore, *tags: ReadinessTag, **how: Any) -> TaggedFamily:
    (family,) = put_tags(store, tags, **how)
    return family


def alias_of(client: Any, name: str = FAMILY) -> int | None:
    found = client.get_registered_model(name).aliases.get(ALIAS)
    return None if found is None else int(found)


def versions(client: Any, name: str = FAMILY) -> dict[str, Any]:
    """Versions of a registered model, by the id of the checkpoint that their tag names."""
    found = client.search_model_versions(f"name = '{name}'")
    by_id = {}
    for version in found:
        tag = read_tag(version.tags)
        assert tag is not None
        by_id[tag.checkpoint_id] = version
    assert len(by_id) == len(found)
    return by_id


def test_a_ranked_checkpoint_is_a_version_that_says_what_was_decided(
    store: MlflowStore, client: Any
) -> None:
    family = put(store, a_tag(1), a_tag(2, readiness=NOT_READY, predicted=0.4, low=0.35))
    assert family.name == FAMILY
    version = versions(client)[a_checkpoint(1).id]
    assert version.source == f"models:/{store.find(a_checkpoint(1).id).model_id}"
    assert (
        version.tags.items()
        >= {
            RL_READY: "true",
            "rlready.checkpoint": "Qwen2.5-0.5B-step1",
            "rlready.predicted": "0.613",
            "rlready.interval": "0.55 to 0.67 (90 %)",
            "rlready.predictor": "grpo-predictor/3",
        }.items()
    )
    first, *rest = version.description.splitlines()
    assert first == "READY: 0.613, interval 0.55 to 0.67 (90 %)"
    for said in (*a_tag().reasons, a_tag().target, a_tag().regime, a_checkpoint(1).uri):
        assert any(escaped(said) in line for line in rest)
    assert versions(client)[a_checkpoint(2).id].tags[RL_READY] == "false"
    page = client.get_registered_model(FAMILY).description
    row = ["2", "Qwen2.5-0.5B-step1", "READY", "0.613", "0.55 to 0.67"]
    assert row in [
        [cell.removesuffix("&ensp;") for cell in line.strip("| ").split(" | ")]
        for line in page.splitlines()
    ]


def test_a_page_says_the_place_in_the_ranking(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1, place="rank 2 of 3"))
    (version,) = versions(client).values()
    assert version.description.startswith("READY, rank 2 of 3: 0.613, interval")
    tag = read_tag(version.tags)
    assert tag is not None
    assert tag.place == "rank 2 of 3"


def test_no_weights_are_copied(store: MlflowStore, client: Any, tmp_path: Path) -> None:
    before = sorted(tmp_path.glob("mlruns/**/*"))
    put(store, a_tag(1))
    assert sorted(tmp_path.glob("mlruns/**/*")) == before


def test_the_alias_is_on_the_best_ready_one(store: MlflowStore, client: Any) -> None:
    family = put(store, a_tag(3, readiness=UNDECIDED), a_tag(2), a_tag(1))
    assert family.chosen == a_checkpoint(2).id
    assert alias_of(client) == int(versions(client)[a_checkpoint(2).id].version)
    family = put(store, a_tag(1), a_tag(2))
    assert family.note == "rl-ready moves from Qwen2.5-0.5B-step2 to Qwen2.5-0.5B-step1"
    assert alias_of(client) == int(versions(client)[a_checkpoint(1).id].version)


def test_an_alias_on_what_is_no_longer_ready_is_removed_and_that_is_said(
    store: MlflowStore, client: Any
) -> None:
    put(store, a_tag(1))
    family = put(store, a_tag(1, readiness=NOT_READY), a_tag(2, readiness=UNDECIDED))
    assert family.chosen is None
    assert "is taken from Qwen2.5-0.5B-step1, which is NOT_READY now" in family.note
    assert alias_of(client) is None
    assert put(store, a_tag(2, readiness=UNDECIDED)).note == (
        "no checkpoint is READY: rl-ready is on none"
    )


def test_a_checkpoint_that_had_its_run_gets_the_alias_only_on_request(
    store: MlflowStore, client: Any
) -> None:
    """The alias once went to it without a word, and the next RL run began from it again."""
    tags, spent = [a_tag(1), a_tag(2, readiness=UNDECIDED)], {a_checkpoint(1).id}
    (family,) = put_tags(store, tags, spent=spent)
    assert family.chosen is None
    assert family.note == (
        "each READY checkpoint had its RL run already (Qwen2.5-0.5B-step1; see --allow-trained): "
        "rl-ready is on none"
    )
    assert alias_of(client) is None
    (family,) = put_tags(store, tags, spent=spent, allow_trained=True)
    assert family.chosen == a_checkpoint(1).id
    assert "Qwen2.5-0.5B-step1, which had its RL run" in family.note
    assert alias_of(client) == int(versions(client)[a_checkpoint(1).id].version)
    (family,) = put_tags(store, [a_tag(1), a_tag(2)], spent=spent, allow_trained=True)
    assert family.chosen == a_checkpoint(2).id


def test_the_alias_leaves_a_checkpoint_that_has_got_its_run(
    store: MlflowStore, client: Any
) -> None:
    put(store, a_tag(1))
    (family,) = put_tags(store, [a_tag(1)], spent={a_checkpoint(1).id})
    assert (family.chosen, alias_of(client)) == (None, None)
    assert "taken from Qwen2.5-0.5B-step1, which had its RL run" in family.note


def test_an_alias_on_a_ready_one_outside_the_ranking_is_left(
    store: MlflowStore, client: Any
) -> None:
    put(store, a_tag(1))
    family = put(store, a_tag(2, readiness=NOT_READY))
    assert family.chosen == a_checkpoint(1).id
    assert "is left on" in family.note
    assert alias_of(client) == 1


def test_an_alias_that_a_person_put_on_an_unready_one_is_removed(
    store: MlflowStore, client: Any
) -> None:
    put(store, a_tag(1, readiness=NOT_READY))
    client.set_registered_model_alias(FAMILY, ALIAS, "1")
    family = put(store, a_tag(2, readiness=NOT_READY))
    assert (family.chosen, alias_of(client)) == (None, None)


def test_the_same_ranking_again_changes_nothing(store: MlflowStore, client: Any) -> None:
    tags = (a_tag(1), a_tag(2, readiness=NOT_READY))
    put(store, *tags)
    before = {key: (v.tags, v.last_updated_timestamp) for key, v in versions(client).items()}
    later = [dataclasses.replace(tag, made_at=NOW + timedelta(days=1)) for tag in tags]
    family = put(store, *later)
    assert [(t.is_new, t.is_changed) for t in family.tagged] == [(False, False)] * 2
    assert before == {
        key: (v.tags, v.last_updated_timestamp) for key, v in versions(client).items()
    }


def test_a_new_ranking_changes_the_version_and_makes_none(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1))
    changed = a_tag(1, readiness=UNDECIDED, predictor_version="4", reasons=("out of the domain",))
    family = put(store, changed)
    assert [(t.is_new, t.is_changed) for t in family.tagged] == [(False, True)]
    version = versions(client)[a_checkpoint(1).id]
    assert (int(version.version), version.tags[RL_READY]) == (1, "undecided")
    assert read_tag(version.tags) == changed
    assert version.description.startswith("UNDECIDED")


def test_what_a_killed_call_left_half_written_is_completed(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1))
    client.set_model_version_tag(FAMILY, "1", RL_READY, "false")
    client.delete_model_version_tag(FAMILY, "1", "rlready.predicted")
    family = put(store, a_tag(1, made_at=NOW + timedelta(days=1)))
    version = versions(client)[a_checkpoint(1).id]
    assert family.tagged[0].is_changed
    assert version.tags == version_tags(a_tag(1), a_checkpoint(1))


def test_a_description_that_a_person_wrote_stays(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1))
    client.update_model_version(FAMILY, "1", description="Ask Ada before you train this one.")
    put(store, a_tag(1, predicted=0.6))
    assert client.get_model_version(FAMILY, "1").description.startswith("Ask Ada")


def test_a_dry_run_says_the_same_and_writes_nothing(store: MlflowStore, client: Any) -> None:
    tags = (a_tag(1), a_tag(2, readiness=NOT_READY))
    dry = put(store, *tags, dry_run=True)
    assert client.search_registered_models() == []
    real = put(store, *tags)
    assert (dry.name, dry.chosen, dry.note) == (real.name, real.chosen, real.note)
    assert [(t.tag, t.is_new) for t in dry.tagged] == [(t.tag, t.is_new) for t in real.tagged]
    again = put(store, *tags, dry_run=True)
    assert [t.uri for t in again.tagged] == [t.uri for t in real.tagged]
    assert not any(t.is_changed for t in again.tagged)


def test_each_base_model_has_a_family_of_its_own(store: MlflowStore, client: Any) -> None:
    other = a_checkpoint(4, recipe=Recipe(base_model="meta/Llama-3.2-1B@abc"))
    base = a_checkpoint(5, kind="base", name="gemma", recipe=None)
    child = a_checkpoint(6, recipe=None, parents=(base.id,))
    grandchild = a_checkpoint(7, recipe=None, kind="rl", parents=(child.id,))
    for checkpoint in (other, base, child, grandchild):
        store.put_evaluation(an_evaluation(checkpoint=checkpoint))
    families = put_tags(store, [a_tag(number) for number in (7, 4, 1, 6)])
    assert [(f.name, len(f.tagged), f.chosen) for f in families] == [
        ("gemma-sft", 2, grandchild.id),
        ("Llama-3.2-1B-sft", 1, other.id),
        (FAMILY, 1, a_checkpoint(1).id),
    ]
    assert put(store, *(a_tag(n) for n in (7, 4, 1)), name="all").name == "all"


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B-sft"),
        ("/data/base models/tiny:1/", "tiny-1-sft"),
        ("org/name@0123abc", "name-sft"),
        ("::", "unnamed-sft"),
    ],
)
def test_a_family_is_named_after_its_base_model(base: str, name: str) -> None:
    assert family_name(base) == name


def test_another_teams_model_of_that_name_is_not_touched(store: MlflowStore, client: Any) -> None:
    client.create_registered_model(FAMILY)
    with pytest.raises(StoreError, match="which rlready did not make"):
        put(store, a_tag(1))
    assert client.search_model_versions(f"name = '{FAMILY}'") == []
    assert put(store, a_tag(1), name=FAMILY).chosen == a_checkpoint(1).id


@pytest.mark.parametrize("name", ["a/b", "models:x", "a b", ".."])
def test_a_name_that_no_reference_can_hold_is_refused(store: MlflowStore, name: str) -> None:
    with pytest.raises(StoreError, match="not a name for a registered model"):
        put(store, a_tag(1), name=name)


def test_an_incomplete_checkpoint_is_never_registered(store: MlflowStore, client: Any) -> None:
    """MLflow registers PENDING and FAILED models without a word."""
    from mlflow.entities import LoggedModelStatus

    model_id = store.find(a_checkpoint(2).id).model_id
    client.finalize_logged_model(model_id, LoggedModelStatus.PENDING)
    with pytest.raises(StoreError, match="is not complete"):
        put(store, a_tag(1), a_tag(2))
    assert client.search_registered_models() == []


def test_tags_that_cannot_be_meant_are_refused(store: MlflowStore, client: Any) -> None:
    with pytest.raises(StoreError, match="is not in the registry"):
        put(store, a_tag(1), a_tag(9))
    with pytest.raises(StoreError, match="not of one ranking"):
        put(store, a_tag(1), a_tag(2, predictor_version="4"))
    with pytest.raises(StoreError, match="tagged twice"):
        put(store, a_tag(1), a_tag(1))
    assert client.search_registered_models() == []
    assert put_tags(store, []) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reasons": (" \n",)}, "no reasons"),
        ({"made_at": datetime(2026, 1, 1)}, "has no time zone"),
        ({"predicted": float("nan")}, "predicted nan"),
        ({"high": float("inf")}, "high inf"),
        ({"low": 0.9}, "interval 0.9 to 0.67"),
        ({"level": 90}, "level 90"),
        ({"predicted": None}, "READY without a prediction"),
    ],
)
def test_a_tag_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        a_tag(**changes)


def test_what_is_unknown_is_said_to_be() -> None:
    tag = a_tag(readiness=UNDECIDED, predicted=None, low=None, high=None, reasons=("a\nb",))
    found = version_tags(tag, a_checkpoint(1))
    assert found["rlready.predicted"] == "unknown"
    assert found["rlready.interval"] == "unknown to unknown (90 %)"
    read = read_tag(found)
    assert read == tag
    assert read is not None
    assert says_the_same(read, dataclasses.replace(tag, made_at=NOW + timedelta(1)))
    assert read.reasons == ("a b",)


@pytest.mark.parametrize("text", ["nonsense", '{"format": 1}', '{"format": 9}'])
def test_an_edited_tag_is_told(text: str) -> None:
    with pytest.raises(StoreError, match=r"rlready\.tag"):
        read_tag({TAG: text})


@pytest.mark.parametrize(
    "reference", ["models:/{}@rl-ready", "models:/{}/2", "{}", "{}@rl-ready", "models:/{}"]
)
def test_a_reference_leads_to_the_checkpoint(store: MlflowStore, reference: str) -> None:
    put(store, a_tag(1), a_tag(2, readiness=NOT_READY))
    found = resolve(store, reference.format(FAMILY))
    assert found.checkpoint == a_checkpoint(1)
    assert (found.version, found.aliases) == (f"models:/{FAMILY}/2", (ALIAS,))
    assert found.tag == a_tag(1)
    assert found.model_id == store.find(a_checkpoint(1).id).model_id


def test_a_checkpoint_of_another_experiment_is_resolved_too(store: MlflowStore) -> None:
    put(store, a_tag(1))
    other = MlflowStore(store.tracking_uri, "another")
    assert resolve(other, FAMILY).checkpoint == a_checkpoint(1)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/nothing@rl-ready", rf"there are 1: {FAMILY} @rl-ready"),
        (f"models:/{FAMILY}@best", r"its aliases: @rl-ready \(version 2\); its versions: 1, 2"),
        (f"models:/{FAMILY}/7", r"has no version 7.*its versions: 1, 2"),
        (f"models:/{FAMILY}/latest", "not a reference to a registered model"),
        ("runs:/abc/model", "not a reference to a registered model"),
        ("", "not a reference to a registered model"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(
    store: MlflowStore, reference: str, message: str
) -> None:
    put(store, a_tag(1), a_tag(2, readiness=NOT_READY))
    with pytest.raises(StoreError, match=message):
        resolve(store, reference)


def test_a_name_alone_must_be_unambiguous(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1, readiness=NOT_READY), a_tag(2, readiness=NOT_READY))
    with pytest.raises(StoreError, match="alone does not name one version"):
        resolve(store, FAMILY)
    client.set_registered_model_alias(FAMILY, "mine", "2")
    assert resolve(store, FAMILY).checkpoint == a_checkpoint(1)


def test_a_version_of_something_else_is_told(store: MlflowStore, client: Any) -> None:
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source="file:///weights", await_creation_for=0)
    with pytest.raises(StoreError, match="is not a checkpoint of rlready"):
        resolve(store, "models:/theirs/1")


def test_a_deleted_checkpoint_is_told(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1))
    client.delete_logged_model(store.find(a_checkpoint(1).id).model_id)
    with pytest.raises(StoreError, match="leads nowhere"):
        resolve(store, FAMILY)


def test_reading_creates_no_registry(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no registry"):
        resolve(MlflowStore(f"sqlite:///{tmp_path / 'none.db'}"), FAMILY)
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_tracking_uri_stays_as_it_is(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MLflow looks the source of a version up by the process-wide URI; it is set for that alone."""
    with quiet():
        import mlflow

    mine = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine)
    put(store, a_tag(1))
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == mine
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    put(store, a_tag(2))
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not (tmp_path / "mine.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mlflow_uri", ["sqlite", "postgres", "server"], indirect=True)
def test_callers_at_the_same_time_make_one_version_a_checkpoint(
    mlflow_uri: str, tmp_path: Path
) -> None:
    experiment = new_experiment(mlflow_uri, tmp_path)
    store = MlflowStore(mlflow_uri, experiment)
    for number in (1, 2):
        store.put_evaluation(an_evaluation(number))
    name = f"race-{experiment[-8:]}"
    command = (sys.executable, __file__, store.tracking_uri, experiment, name)
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    subprocess.run(command, env=environment, check=True)
    with quiet():
        found = versions(client_of(store.tracking_uri), name)
    assert sorted(int(version.version) for version in found.values()) == [1, 2]
    assert resolve(store, name).checkpoint == a_checkpoint(1)
    assert "race" not in put(store, a_tag(1), a_tag(2), name=name).note


def test_a_description_is_no_longer_than_databases_keep() -> None:
    name = "`" * 600
    tag = a_tag(reasons=tuple(f"{number} " + "x" * 2000 for number in range(20)))
    checkpoint = a_checkpoint(1, name=name, uri="file:///" + "y" * 2000)
    for text in (
        tagged_version_description(tag, checkpoint),
        family_description(name, [(number, name, tag) for number in range(1, 500)]),
    ):
        assert len(text) <= 5000
        assert len(re.findall(r"(?<!\\)`", text)) % 2 == 0
        assert text.endswith(SIGNATURE)


def test_signature_ends_every_description(store: MlflowStore, client: Any) -> None:
    put(store, a_tag(1))
    assert client.get_model_version(FAMILY, "1").description.endswith(SIGNATURE)
    assert client.get_registered_model(FAMILY).description.endswith(SIGNATURE)


def race(uri: str, experiment: str, name: str) -> int:
    """How many of four processes failed that put the same two tags at once."""
    import mlflow.models
    import mlflow.tracking  # noqa: F401 - once, for all forks

    def work() -> None:
        put_tags(MlflowStore(uri, experiment), [a_tag(1), a_tag(2)], name=name)

    return sum(os.waitpid(pid, 0)[1] != 0 for pid in [forked(work) for _ in range(4)])


if __name__ == "__main__":
    sys.exit(race(*sys.argv[1:]))
