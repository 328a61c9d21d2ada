"""Predictors in MLflow: stored without pickle, refused when tampered with, servable."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shifted_mean
from backends import free_port, served
from places import SUPPORT
from shifted_mean import Centre, ShiftedMean
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.predictors.records import (
    FittedPredictor,
    PredictorMeta,
    check_columns,
)
from rlready.registry.mlflow_store.predictors.skops_file import load_estimator, unfamiliar_types
from rlready.registry.mlflow_store.predictors.store import get_predictor, put_predictor
from rlready.registry.mlflow_store.store import MlflowStore

NAME = "grpo-predictor"
TARGET = "value_at_budget/60steps@gsm8k"
PROXIES = ("pass_at_1@gsm8k", "heldout_nll@gsm8k")
WAY = "benchmark a1a1, protocol c3c3, evaluator 1"


def the_rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({name: rng.normal(size=24) for name in PROXIES})
    return X.assign(group=["a", "b"] * 12)


def a_pipeline(alpha: float = 1.0) -> FittedPredictor:
    X = the_rows()[list(PROXIES)]
    y = X.sum(axis=1)
    return fitted(make_pipeline(StandardScaler(), Ridge(alpha)).fit(X, y), X)


def our_own(shift: float = 0.5, X: pd.DataFrame | None = None, **changes: Any) -> FittedPredictor:
    X = the_rows() if X is None else X
    estimator = ShiftedMean(shift).fit(X, np.zeros(len(X)))
    return fitted(estimator, X, **{"trusted_types": shifted_mean.TYPES, **changes})


def fitted(estimator: Any, X: pd.DataFrame, **changes: Any) -> FittedPredictor:
    given: dict[str, Any] = {
        "estimator": estimator,
        "X": X,
        "table": X.assign(target=1.0),
        "table_digest": "ab" * 16,
        "target": TARGET,
        "column_versions": dict.fromkeys(PROXIES, WAY),
        "params": {"model": "default", "seed": 0},
        "metrics": {"loo/spearman": 0.9, "loo/r2": float("nan")},
        "report": {"loo": {"spearman": {"value": 0.9, "lo": 0.7, "hi": 0.95}}},
        "summary": ("leave one out: Spearman 0.90 [0.70, 0.95]",),
    }
    return FittedPredictor(**{**given, **changes})


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    return MlflowStore(sqlite_uri)


def model_folder(client: Any, meta: PredictorMeta) -> Path:
    return Path(client.get_logged_model(meta.model_id).artifact_location.removeprefix("file://"))


def test_a_predictor_comes_back_as_it_was(store: MlflowStore) -> None:
    put = put_predictor(store, a_pipeline())
    assert (put.is_new, put.meta.uri) == (True, f"models:/{NAME}/1")
    found = get_predictor(store)
    assert found.meta == put.meta
    assert found.meta.column_versions == dict.fromkeys(PROXIES, WAY)
    assert (found.meta.target, found.meta.n_rows) == (TARGET, 24)
    X = a_pipeline().X
    np.testing.assert_array_equal(found.estimator.predict(X), a_pipeline().estimator.predict(X))


def test_types_of_our_own_come_back_if_they_are_trusted(store: MlflowStore) -> None:
    put_predictor(store, our_own())
    found = get_predictor(store, trusted_types=shifted_mean.TYPES).estimator
    pd.testing.assert_frame_equal(found.assess(the_rows()), our_own().estimator.assess(the_rows()))
    with pytest.raises(StoreError, match=r"not trusted: shifted_mean\.Centre$|Centre, "):
        get_predictor(store)


def test_the_page_run_and_model_say_what_it_rests_on(
    store: MlflowStore, client: Any, tmp_path: Path
) -> None:
    figure = tmp_path / "x.png"
    figure.write_bytes(b"figure")
    given = dataclasses.replace(a_pipeline(), figures={"true.png": figure})
    meta = put_predictor(store, given).meta
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.source == f"models:/{meta.model_id}"
    assert version.description.startswith("Fitted on 24 checkpoints, 2 proxies\n")
    assert "Spearman 0.90" in version.description
    run = client.get_run(meta.run_id)
    page = run.data.tags["mlflow.note.content"]
    assert "Spearman 0.90" in page
    assert f"![true](get-artifact?path=figures/true.png&run_uuid={meta.run_id})" in page
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loo/spearman": 0.9})
    assert [o.model_id for o in run.outputs.model_outputs] == [meta.model_id]
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((artifacts / "report.json").read_text()) == given.report
    assert json.loads((artifacts / "columns.json").read_text()) == given.column_versions
    pd.testing.assert_frame_equal(pd.read_parquet(artifacts / "table.parquet"), given.table)
    pd.testing.assert_frame_equal(pd.read_csv(artifacts / "table.csv"), given.table)
    assert (artifacts / "figures/true.png").read_bytes() == b"figure"
    model = client.get_logged_model(meta.model_id)
    assert (model.model_type, str(model.status)) == ("grpo-predictor", "READY")
    assert {(m.key, m.dataset_digest) for m in model.metrics} == {("loo/spearman", "ab" * 16)}


def test_no_file_of_it_is_a_pickle(store: MlflowStore, client: Any) -> None:
    folder = model_folder(client, put_predictor(store, our_own()).meta)
    names = {path.name for path in folder.iterdir()}
    assert "model.skops" in names
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))}
    with zipfile.ZipFile(folder / "model.skops") as archive:
        assert "schema.json" in archive.namelist()


def test_the_same_predictor_of_the_same_table_is_one_version(
    store: MlflowStore, client: Any
) -> None:
    first, second = put_predictor(store, a_pipeline()), put_predictor(store, a_pipeline())
    assert (second.is_new, second.meta) == (False, first.meta)
    others = [
        put_predictor(store, a_pipeline(alpha=2.0)),
        put_predictor(store, dataclasses.replace(a_pipeline(), table_digest="cd" * 16)),
        put_predictor(store, dataclasses.replace(a_pipeline(), params={"model": "other"})),
    ]
    assert [put.meta.version for put in others] == ["2", "3", "4"]
    assert int(client.get_model_version_by_alias(NAME, "champion").version) == 4
    assert put_predictor(store, a_pipeline()).meta == first.meta
    assert int(client.get_model_version_by_alias(NAME, "champion").version) == 1
    assert get_predictor(store, f"models:/{NAME}/2").meta == others[0].meta


def test_a_killed_put_is_made_good_by_the_next(
    store: MlflowStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for method in ("log_model_artifacts", "log_outputs", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, killed)
            with pytest.raises(KeyboardInterrupt):
                put_predictor(store, a_pipeline())
        with pytest.raises(StoreError):
            get_predictor(store)
    meta = put_predictor(store, a_pipeline()).meta
    assert meta.version == "1"
    assert get_predictor(store).meta == meta
    experiment = client.get_experiment_by_name(store.experiment).experiment_id
    (model,) = client.search_logged_models([experiment])
    assert model.model_id == meta.model_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"


class Exploit:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch exploited",))


def test_a_file_that_was_changed_is_refused(store: MlflowStore, client: Any) -> None:
    folder = model_folder(client, put_predictor(store, our_own()).meta)
    honest = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in honest.items():
        path.write_bytes(content + b" ")
        with pytest.raises(StoreError, match=f"changed: {path.name}"):
            get_predictor(store, trusted_types=shifted_mean.TYPES)
        path.write_bytes(content)
    (folder / "more.py").write_text("")
    with pytest.raises(StoreError, match=r"added: more\.py"):
        get_predictor(store, trusted_types=shifted_mean.TYPES)
    (folder / "more.py").unlink()
    (folder / "model.skops").unlink()
    with pytest.raises(StoreError, match=r"missing: model\.skops"):
        get_predictor(store, trusted_types=shifted_mean.TYPES)


def test_a_pickle_is_never_unpickled(
    store: MlflowStore, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the digests in the registry were made to fit it."""
    from rlready.registry.mlflow_store.predictors.skops_file import file_digests
    from rlready.registry.mlflow_store.predictors.store import SHA256

    monkeypatch.chdir(tmp_path)
    meta = put_predictor(store, our_own()).meta
    folder = model_folder(client, meta)
    (folder / "model.skops").write_bytes(pickle.dumps(Exploit()))
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace("format: skops", "format: pickle"))
    client.set_logged_model_tags(meta.model_id, {SHA256: json.dumps(file_digests(folder))})
    with pytest.raises(StoreError, match="is not a skops file"):
        get_predictor(store, trusted_types=shifted_mean.TYPES)
    with pytest.raises(StoreError, match="is not a skops file"):
        client_predict(store)
    assert not (tmp_path / "exploited").exists()


def client_predict(store: MlflowStore, rows: pd.DataFrame | None = None) -> Any:
    """What a server does first."""
    import mlflow
    from mlflow.artifacts import download_artifacts

    meta_uri = f"models:/{NAME}@champion"
    mlflow.set_tracking_uri(store.tracking_uri)
    return mlflow.pyfunc.load_model(download_artifacts(meta_uri)).predict(
        the_rows() if rows is None else rows
    )


def test_a_skops_file_with_a_type_of_an_attacker_is_refused(tmp_path: Path) -> None:
    import skops.io

    path = tmp_path / "model.skops"
    estimator = ShiftedMean().fit(the_rows(), np.zeros(24))
    estimator.hook_ = os.system
    skops.io.dump(estimator, path)
    with pytest.raises(StoreError, match=r"not trusted: .*system"):
        load_estimator(path, shifted_mean.TYPES, "it")


def test_the_list_of_trusted_types_beside_the_model_is_not_believed(
    store: MlflowStore, client: Any
) -> None:
    meta = put_predictor(store, our_own()).meta
    assert "shifted_mean" in (model_folder(client, meta) / "MLmodel").read_text()
    with pytest.raises(StoreError, match="not trusted"):
        get_predictor(store)


def test_an_estimator_that_cannot_be_stored_leaves_nothing(store: MlflowStore, client: Any) -> None:
    with pytest.raises(StoreError, match="not trusted"):
        put_predictor(store, our_own(trusted_types=()))
    with pytest.raises(StoreError, match="cannot be stored without pickle"):
        unfamiliar_types(make_pipeline(ShiftedMean(io.BytesIO())))
    assert client.search_registered_models() == []
    assert list(client.search_logged_models([client.search_experiments()[0].experiment_id])) == []


def test_a_reference_to_something_else_is_told(store: MlflowStore, client: Any) -> None:
    put_predictor(store, a_pipeline())
    with pytest.raises(StoreError, match=rf"there are 1: {NAME} @champion"):
        get_predictor(store, "other")
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source="file:///x", await_creation_for=0)
    with pytest.raises(StoreError, match="is not a predictor of rlready"):
        get_predictor(store, "theirs")


def test_columns_must_mean_what_they_meant(store: MlflowStore) -> None:
    meta = put_predictor(store, a_pipeline()).meta
    check_columns(meta, {**dict.fromkeys(PROXIES, WAY), "another@gsm8k": "evaluator 9"})
    with pytest.raises(StoreError, match=r"not in the table: heldout_nll@gsm8k") as caught:
        check_columns(meta, {PROXIES[0]: WAY.replace("c3c3", "d4d4")})
    assert f"fitted: {WAY}; table: {WAY.replace('c3c3', 'd4d4')}" in str(caught.value)


def test_mlflow_answers_with_interval_and_domain(store: MlflowStore) -> None:
    put_predictor(store, our_own())
    with quiet():
        answer = client_predict(store)
    pd.testing.assert_frame_equal(answer, our_own().estimator.assess(the_rows()))


def table_rows() -> pd.DataFrame:
    """Rows as `rlready table` gives them: facts, recipe, proxies, outcomes; no column `group`."""
    rows = the_rows().head(3)
    rows.iloc[0, 0] = np.nan
    rows = rows.rename(columns={"group": "recipe.base_model"})
    ids = [f"{number:032x}" for number in range(3)]
    facts = {"checkpoint_id": ids, "name": ["1", "2", "=c"], "kind": "sft", "step": [10, None, 30]}
    return rows.assign(**facts, **{"pass_at_1_n@gsm8k": 34, TARGET: np.nan})


def grouped() -> FittedPredictor:
    """A predictor whose group is a column of the registry, with a standard error."""
    X = the_rows().assign(**{"pass_at_1_se@gsm8k": 0.01})
    table = X.assign(**{"recipe.base_model": X["group"]})
    return our_own(
        X=X, table=table, groups=["recipe.base_model"], optional=["pass_at_1_se@gsm8k", "group"]
    )


def test_a_row_of_the_table_is_assessed_as_it_is(store: MlflowStore) -> None:
    put_predictor(store, grouped())
    rows = table_rows()
    with quiet():
        answer = client_predict(store, rows)
        without_facts = client_predict(store, rows[[*PROXIES, "recipe.base_model"]])
        with_group = client_predict(store, the_rows())
    assert answer["name"].tolist() == ["1", "2", "=c"]
    assert answer["checkpoint_id"].tolist() == rows["checkpoint_id"].tolist()
    wanted = our_own().estimator.assess(rows.assign(group=rows["recipe.base_model"]))
    pd.testing.assert_frame_equal(answer[wanted.columns], wanted)
    pd.testing.assert_frame_equal(without_facts, wanted)
    pd.testing.assert_frame_equal(with_group, our_own().estimator.assess(the_rows()))


def test_a_row_without_a_proxy_is_refused_by_its_name(store: MlflowStore) -> None:
    from mlflow.exceptions import MlflowException

    put_predictor(store, grouped())
    with quiet(), pytest.raises(MlflowException, match="heldout_nll@gsm8k"):
        client_predict(store, table_rows().drop(columns="heldout_nll@gsm8k"))


@pytest.mark.slow
def test_a_server_answers_invocations(store: MlflowStore, tmp_path: Path) -> None:
    put_predictor(store, grouped())
    rows = the_rows().head(3)
    rows.iloc[0, 0] = np.nan
    table = table_rows()
    wanted = our_own().estimator.assess(rows)
    with a_server(store, tmp_path) as uri:
        answer = pd.DataFrame(invoke(uri, rows)["predictions"])
        pd.testing.assert_frame_equal(answer, wanted)
        # A row of `rlready table` as it is, as CSV and as JSON.
        csv = post(uri, table.to_csv(index=False), "text/csv")
        records = json.loads(table.to_json(orient="records"))
        for body in (csv, post(uri, json.dumps({"dataframe_records": records}))):
            answer = pd.DataFrame(body["predictions"])
            assert answer["name"].tolist() == ["1", "2", "=c"]
            pd.testing.assert_frame_equal(answer[wanted.columns], wanted)
        with pytest.raises(urllib.error.HTTPError) as caught:
            invoke(uri, rows.assign(group="unknown"))
        assert caught.value.code == 400
        # While the server is up: the body may not have come with the headers.
        assert "is not known" in caught.value.read().decode()


@contextlib.contextmanager
def a_server(store: MlflowStore, folder: Path) -> Iterator[str]:
    """Address of `mlflow models serve` for the champion, on loopback."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store.tracking_uri,
        "PYTHONPATH": str(SUPPORT),
        # MLflow starts uvicorn by its bare name: an activated environment finds it.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with served(command, port, folder, environment) as uri:
        yield uri


def invoke(uri: str, rows: pd.DataFrame) -> Any:
    split = json.loads(rows.to_json(orient="split", index=False))
    return post(uri, json.dumps({"dataframe_split": split}))


def post(uri: str, body: str, kind: str = "application/json") -> Any:
    request = urllib.request.Request(f"{uri}/invocations", body.encode(), {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_value_that_is_no_estimator_is_listed_by_its_full_name() -> None:
    assert set(unfamiliar_types(our_own().estimator)) == set(shifted_mean.TYPES)
    assert Centre.__module__ == "shifted_mean"
