"""MLflow's own pages in Chromium: what a person sees there of a ranking and of a fit."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from backends import client_of, copy_database, free_port, served
from browser import Browser, Tab, chromium, running
from sklearn.linear_model import Ridge
from store_child import a_checkpoint, an_evaluation, an_outcome
from tag_examples import a_tag

from rlready.registry.mlflow_store.pages.checkpoint_pages import put_pages
from rlready.registry.mlflow_store.predictors.records import FittedPredictor
from rlready.registry.mlflow_store.predictors.report_page import put_report
from rlready.registry.mlflow_store.predictors.store import put_predictor
from rlready.registry.mlflow_store.store import VIEW, MlflowStore
from rlready.registry.records import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]

HOSTILE = "=<img src=x onerror=window.hacked=1> `x` *b* [l](http://evil.example) | @me :smile:"
SHOWN_S = 60
"""Seconds after which a page of MLflow hangs, on a busy machine too."""


def fit_with_a_figure(store: MlflowStore, folder: Path) -> str:
    """Store a predictor and a report; return the run's id."""
    from matplotlib import pyplot as plt

    figure = folder / "true.png"
    plt.figure(figsize=(1, 1)).savefig(figure)
    plt.close("all")
    X = pd.DataFrame({"pass_at_1@gsm8k": np.linspace(0, 1, 6)})
    fitted = FittedPredictor(
        estimator=Ridge().fit(X, X.sum(axis=1)),
        X=X,
        table=X,
        table_digest="ab" * 16,
        target="value_at_budget/60steps@gsm8k",
        column_versions={"pass_at_1@gsm8k": "1"},
        figures={"true.png": figure},
        summary=("rows left out: spearman 0.9",),
    )
    meta = put_predictor(store, fitted).meta
    put_report(store, meta, "<p>report</p>", verdict=f"Train {HOSTILE}", figures={"Why": figure})
    return meta.run_id


@pytest.fixture(scope="module")
def addresses(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Addresses of pages of a running MLflow server."""
    folder = tmp_path_factory.mktemp("pages")
    copy_database(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    store = MlflowStore(uri)
    checkpoint = a_checkpoint(1, recipe=Recipe(base_model=HOSTILE))
    model_id = store.put_evaluation(an_evaluation(checkpoint=checkpoint)).model_id
    store.put_outcome(an_outcome(statistic="peak"))
    put_pages(store, [a_tag(1, place="rank 2 of 48", reasons=(HOSTILE,))])
    run_id = fit_with_a_figure(store, folder)
    id_ = client_of(uri).get_run(run_id).info.experiment_id
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with served(command, port, folder, environment) as server:
        experiment = f"{server}/#/experiments/{id_}"
        yield {
            "checkpoint": f"{experiment}/models/{model_id}{VIEW}",
            "fit": f"{experiment}/runs/{run_id}{VIEW}",
            "runs": f"{experiment}/runs{VIEW}",
        }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    assert path is not None
    with running(path) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Tab:
    """A new page: a change of the part after # alone would load nothing."""
    return browser.tab()


def opened(tab: Tab, address: str, text: str) -> str:
    """Text of a page, once it shows a text."""
    tab.send("Emulation.setDeviceMetricsOverride", width=1280, height=1200,
             deviceScaleFactor=1, mobile=False)  # fmt: skip
    tab.send("Page.navigate", url=address)
    return until(tab, "document.body ? document.body.innerText : ''", lambda body: text in body)


def until(tab: Tab, code: str, holds: Any) -> Any:
    deadline = time.monotonic() + SHOWN_S
    while not holds(value := tab.js(code)):
        assert time.monotonic() < deadline, value
    return value


def test_the_page_of_a_checkpoint_shows_the_verdict_first(
    tab: Tab, addresses: dict[str, str]
) -> None:
    body = opened(tab, addresses["checkpoint"], "READY for RL, rank 2 of 48")
    order = ["READY for RL, rank 2 of 48: predicted 0.613", HOSTILE, "Before RL", "After RL"]
    places = [body.index(text) for text in order]
    assert places == sorted(places)
    assert body.count(HOSTILE) == 2  # a reason, and the recipe
    assert tab.js("document.querySelectorAll('table td').length") > 10
    assert tab.js("window.hacked") is None
    assert tab.js("[...document.links].filter(a => a.href.includes('evil')).length") == 0


def test_the_page_of_a_fit_shows_the_verdict_and_the_figures(
    tab: Tab, addresses: dict[str, str]
) -> None:
    opened(tab, addresses["fit"], f"Train {HOSTILE}")
    widths = "[...document.images].filter(i => i.src.includes('get-artifact'))"
    until(tab, f"{widths}.map(i => i.naturalWidth)", lambda found: found == [100, 100])


def test_runs_of_rl_are_folded_away_below_the_evaluation(
    tab: Tab, addresses: dict[str, str]
) -> None:
    body = opened(tab, addresses["runs"], "fit grpo-predictor")
    assert "evaluate Qwen" in body
    assert "grpo 60steps" not in body
