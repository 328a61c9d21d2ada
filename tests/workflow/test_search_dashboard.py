"""A study of a search opens in optuna-dashboard; tried where that is installed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rlready.workflow.search.open import SearchConfig, open_database, open_search
from rlready.workflow.search.run import ask

SPACE = "[sources.gsm8k]\n[sources.numina]\n[learning_rate]\nlow = 1e-6\nhigh = 1e-4\n"


def test_the_dashboard_shows_the_trials_of_a_search(tmp_path: Path) -> None:
    dashboard = pytest.importorskip(
        "optuna_dashboard", reason="optuna-dashboard is not installed: pip install optuna-dashboard"
    )
    (tmp_path / "mix.toml").write_text(SPACE)
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    search = open_search(
        SearchConfig(space=tmp_path / "mix.toml", storage=storage, folder=tmp_path / "out")
    )
    ask(search).tell(value=0.5, se=0.01)
    ask(search)
    search.engine.dispose()
    opened = open_database(storage)
    app = dashboard.wsgi(opened)
    (study,) = answer(app, "/api/studies")["study_summaries"]
    assert (study["study_name"], study["directions"]) == ("mix", ["maximize"])
    trials = answer(app, f"/api/studies/{study['study_id']}", "after=0")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Running"]
    assert trials[0]["values"] == [0.5]
    assert "rlready:recipe" in {attribute["key"] for attribute in trials[0]["user_attrs"]}
    opened.engine.dispose()


def answer(app: Any, path: str, query: str = "") -> Any:
    """The JSON that a WSGI application answers a GET with."""
    said: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environment, lambda status, headers, *_: said.append(status)))
    assert said == ["200 OK"], body
    return json.loads(body)
