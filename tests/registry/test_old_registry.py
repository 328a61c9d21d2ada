"""A registry that an earlier version wrote (commit 91df89d) is read as it was.

`data/registry_91df89d.tar.xz` holds its MLflow database and artifacts: 14 checkpoints of the
testbed with four proxies each, 12 outcomes, a fitted predictor, tags, and what `rank --json` and
`table --json` printed then. `gen.py` in it says how it was made.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import DATA

from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.predictors.moved_types import MOVED_TYPES
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.cli.main import main

ARCHIVE = DATA / "registry_91df89d.tar.xz"
MADE_IN = "/tmp/oldreg2"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of the old registry, with its artifacts found where they lie now."""
    with tarfile.open(ARCHIVE) as archive:
        # An attribute, because Python before 3.11.4 has no such argument.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        tables = [name for (name,) in database.execute(
            "select name from sqlite_master where type = 'table'"
        )]  # fmt: skip
        for table in tables:
            for _, column, kind, *_ in list(database.execute(f"pragma table_info({table})")):
                if "CHAR" in kind or "TEXT" in kind:
                    database.execute(
                        f"update {table} set {column} = replace({column}, ?, ?)",
                        (MADE_IN, str(tmp_path)),
                    )
    database.close()
    for path in tmp_path.glob("mlruns/**/MLmodel"):
        path.write_text(path.read_text().replace(MADE_IN, str(tmp_path)))
    return tmp_path


def printed(old: Path, command: str) -> object:
    uri = f"sqlite:///{old / 'mlflow.db'}"
    result = CliRunner().invoke(main, [command, "--tracking-uri", uri, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_checkpoints_and_outcomes_of_an_old_registry_are_read(old: Path) -> None:
    stored = MlflowStore(f"sqlite:///{old / 'mlflow.db'}", "rlready").checkpoints()
    assert len(stored) == 14
    assert sum(len(checkpoint.outcomes) for checkpoint in stored) == 12
    assert {len(checkpoint.proxies) for checkpoint in stored} == {4}


def test_the_table_of_an_old_registry_is_the_same(old: Path) -> None:
    table = printed(old, "table")
    assert isinstance(table, dict)
    assert table["rows"] == json.loads((old / "table.json").read_text())


def test_the_predictor_of_an_old_registry_ranks_as_it_did(old: Path) -> None:
    now, then = printed(old, "rank"), json.loads((old / "rank.json").read_text())
    assert isinstance(now, dict)
    assert [row["id"] for row in now["rows"]] == [row["id"] for row in then["rows"]]
    for row, earlier in zip(now["rows"], then["rows"], strict=True):
        # What was called predicted held the row's own outcome where one was recorded.
        assert row["expected"] == pytest.approx(earlier["predicted"], rel=1e-9)


def test_mlflow_serves_the_predictor_of_an_old_registry(old: Path) -> None:
    with quiet():
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{old / 'mlflow.db'}")
        served = mlflow.pyfunc.load_model(
            str(next(old.glob("mlruns/**/model.skops")).parent), suppress_warnings=True
        )
    assert type(served.get_raw_model()).__name__ == "CalibratedPredictor"


@pytest.mark.parametrize("name", sorted(MOVED_TYPES))
def test_a_moved_class_is_where_the_table_of_old_names_says(name: str) -> None:
    module, _, qualified = MOVED_TYPES[name].rpartition(".")
    assert hasattr(import_module(module), qualified)
