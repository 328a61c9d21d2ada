"""An export of the registry reads back equal, and a damaged one is refused."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_child import a_checkpoint, a_proxy, an_evaluation, an_outcome

from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Checkpoint, Evaluation, Recipe
from rlready.registry.store import MemoryStore, Store
from rlready.workflow.importers.registry_files import read_registry, write_registry

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(min_size=1, max_size=8)
JSON = st.dictionaries(TEXT, FINITE | TEXT | st.lists(st.integers(-9, 9), max_size=3), max_size=3)


def a_filled_store(store: Any) -> Any:
    """A base model, its SFT checkpoint measured twice, and an RL checkpoint with outcomes."""
    base = a_checkpoint(1, kind="base", recipe=None, step=None)
    sft = a_checkpoint(2, parents=(base.id,))
    rl = a_checkpoint(3, kind="rl", parents=(sft.id,))
    store.put_evaluation(an_evaluation(1, checkpoint=base))
    store.put_evaluation(an_evaluation(2, checkpoint=sft, value=0.5))
    store.put_evaluation(an_evaluation(2, checkpoint=sft, value=0.25))
    store.put_evaluation(Evaluation(checkpoint=rl, proxies=()))
    first = an_outcome(2, value=0.6, rl_checkpoint_id=rl.id)
    store.put_outcome(first)
    store.put_outcome(dataclasses.replace(first, value=0.7, replaces=first.id))
    store.put_outcome(an_outcome(2, value=0.9, seed=1, se=None))
    return store


def content(store: Store) -> Any:
    """All records of a store: the newest proxies, the outcomes and every evaluation."""
    checkpoints = {
        each.checkpoint.id: (each.checkpoint, set(each.proxies), list(each.outcomes))
        for each in store.checkpoints()
    }
    by_checkpoint: dict[str, list[Evaluation]] = {}
    for evaluation in store.evaluations():
        by_checkpoint.setdefault(evaluation.checkpoint.id, []).append(evaluation)
    return checkpoints, by_checkpoint


def test_mlflow_reads_back_what_it_wrote(tmp_path: Path, sqlite_uri: str) -> None:
    source = a_filled_store(MlflowStore(sqlite_uri, "source"))
    counts = write_registry(tmp_path / "export", source)
    assert (counts.checkpoints, counts.evaluations, counts.outcomes) == (3, 4, 3)
    target = MlflowStore(sqlite_uri, "target")
    assert read_registry(tmp_path / "export", target).n_new == 7
    assert content(target) == content(source)
    superseded = [o.replaces for o in target.find("2" + "0" * 31).outcomes if o.replaces]
    assert len(superseded) == 1
    # The same import again stores nothing.
    assert read_registry(tmp_path / "export", target).n_new == 0
    assert content(target) == content(source)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_registry_reads_back_equal(data: st.DataObject) -> None:
    source = MemoryStore()
    made: list[Checkpoint] = []
    for number in range(1, data.draw(st.integers(1, 4)) + 1):
        parents = tuple(data.draw(st.lists(st.sampled_from([c.id for c in made]), max_size=2,
                                           unique=True))) if made else ()  # fmt: skip
        recipe = Recipe(epochs=data.draw(st.none() | st.integers(1, 3) | st.floats(0.5, 3)),
                        extra=data.draw(JSON))  # fmt: skip
        checkpoint = a_checkpoint(
            number,
            name=data.draw(TEXT),
            uri=data.draw(TEXT),
            step=data.draw(st.none() | st.integers(0, 2**60)),
            recipe=data.draw(st.sampled_from([None, recipe])),
            parents=parents,
        )
        made.append(checkpoint)
        for _ in range(data.draw(st.integers(1, 2))):
            proxy = a_proxy(
                name=data.draw(TEXT),
                value=data.draw(FINITE),
                se=data.draw(st.none() | st.floats(0, 9)),
                protocol_digest=data.draw(st.sampled_from([None, "c3" * 16])),
                n_samples=data.draw(st.integers(0, 2**60)),
            )
            config, references = data.draw(JSON), data.draw(st.dictionaries(TEXT, TEXT, max_size=2))
            source.put_evaluation(
                Evaluation(
                    checkpoint=checkpoint, proxies=(proxy,), config=config, references=references
                )
            )
        for _ in range(data.draw(st.integers(0, 2))):
            earlier = [o.id for o in source.find(checkpoint.id).outcomes]
            source.put_outcome(
                an_outcome(
                    number,
                    value=data.draw(FINITE),
                    rl_recipe=data.draw(JSON),
                    replaces=data.draw(st.sampled_from([None, *earlier])),
                )
            )
    target = MemoryStore()
    with tempfile.TemporaryDirectory() as folder:
        write_registry(Path(folder, "export"), source)
        read_registry(Path(folder, "export"), target)
    assert content(target) == content(source)


def test_an_export_replaces_no_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_registry(tmp_path, a_filled_store(MemoryStore()))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(StoreError, match="holds no checkpoints"):
        write_registry(tmp_path / "new", MemoryStore())


@pytest.mark.parametrize("name", ["checkpoints", "evaluations", "proxies", "outcomes"])
def test_a_changed_file_is_refused_before_anything_is_stored(tmp_path: Path, name: str) -> None:
    write_registry(tmp_path / "export", a_filled_store(MemoryStore()))
    path = tmp_path / "export" / f"{name}.parquet"
    content_ = bytearray(path.read_bytes())
    content_[len(content_) // 2] ^= 1
    path.write_bytes(content_)
    target = MemoryStore()
    with pytest.raises(StoreError, match=f"{name}.parquet does not match its digest"):
        read_registry(tmp_path / "export", target)
    assert not target.checkpoints()


def test_an_edited_value_is_refused(tmp_path: Path) -> None:
    """Whoever edits a number and its digest too is found by the id, which the content gives."""
    import pyarrow as pa
    import pyarrow.parquet

    from rlready.registry.digest import file_sha256

    folder = tmp_path / "export"
    write_registry(folder, a_filled_store(MemoryStore()))
    table = pyarrow.parquet.read_table(folder / "outcomes.parquet")
    rows = table.to_pylist()
    rows[0]["value"] = 0.99
    pyarrow.parquet.write_table(
        pa.Table.from_pylist(rows, schema=table.schema), folder / "outcomes.parquet"
    )
    manifest = json.loads((folder / "registry.json").read_text())
    manifest["files"]["outcomes.parquet"]["sha256"] = file_sha256(folder / "outcomes.parquet")
    (folder / "registry.json").write_text(json.dumps(manifest))
    target = MemoryStore()
    with pytest.raises(StoreError, match=r"outcome \w+ has the id \w+ by its content"):
        read_registry(folder, target)
    assert not target.checkpoints()


def test_other_folders_and_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no registry\.json"):
        read_registry(tmp_path, MemoryStore())
    write_registry(tmp_path / "export", a_filled_store(MemoryStore()))
    manifest = tmp_path / "export" / "registry.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match=r"has the format 2.*reads format 1"):
        read_registry(tmp_path / "export", MemoryStore())


def test_a_registry_that_contradicts_the_export_keeps_its_facts(tmp_path: Path) -> None:
    write_registry(tmp_path / "export", a_filled_store(MemoryStore()))
    target = MemoryStore()
    target.put_evaluation(an_evaluation(1, checkpoint=a_checkpoint(1, kind="sft", step=7)))
    with pytest.raises(StoreError, match="is registered with kind 'sft'"):
        read_registry(tmp_path / "export", target)
