"""A password in the tracking URI: a whole evaluation, fit and search leave no trace of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import copy_database, fresh_postgres_database, new_experiment
from click.testing import CliRunner
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main

SECRET = "hunter2/x@Y7"
QUOTED = "hunter2%2Fx%40Y7"
PARTS = ("hunter2", "x@Y7", "x%40Y7")
SPACE = '[recipe]\nbase_model = "org/base"\n[sources.gsm8k]\n[sources.numina]\n'
TARGET = "value_at_budget/60steps@gsm8k"
RL = ("--algorithm", "grpo", "--budget", 60, "--budget-unit", "steps")

Run = Callable[..., str]


def leaks(text: str | bytes) -> list[str]:
    """Parts of the password that a text holds."""
    content = text.encode() if isinstance(text, str) else text
    return [part for part in PARTS if part.encode() in content]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Run]:
    """Calls rlready; what it prints and logs, and every file that it leaves, is looked through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)

    def call(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == code, done.output
        assert not leaks(done.output), done.output
        return done.output

    yield call
    assert not leaks(caplog.text), caplog.text
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert not leaks(path.read_bytes()), path


def put_checkpoints(store: MlflowStore) -> None:
    """Enough of them, with outcomes, to fit a predictor."""
    for number in range(1, 9):
        value = 0.3 + 0.04 * number
        recipe = Recipe(base_model="org/base", sources={"gsm8k": 1.0}, learning_rate=1e-5)
        proxies = (a_proxy(name="pass_at_1", value=value, se=0.01),)
        checkpoint = a_checkpoint(number, recipe=recipe, name=f"sft-{number}")
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        store.put_outcome(an_outcome(number, value=value + 0.1 + 0.01 * (number % 3), se=0.005))


def work(run: Run, uri: str, storage: str, folder: Path, experiment: str) -> None:
    """An evaluation, an outcome, a fit and a search, and what shows them."""
    registry = ("--tracking-uri", uri, "--experiment", experiment)
    rows = [{"id": str(i), "problem": f"{i}+2", "answer": str(i + 2)} for i in range(2)]
    (folder / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "held.jsonl").write_text('{"prompt": "1+1", "response": "2"}\n')
    (folder / "mix.toml").write_text(SPACE)
    model = untrained_checkpoint(folder / "sft-9")
    flags = ("--samples", 2, "--max-tokens", 4, "--device", "cpu", "--batch-size", 4)
    files = ("--benchmark", "toy=toy.jsonl", "--held-out", "held.jsonl")
    run("evaluate", model, *files, *flags, *registry)
    put_checkpoints(MlflowStore(uri, experiment))
    run("outcome", "sft-9", *RL, "--value", 0.5, "--benchmark", "toy", *registry)
    run("fit", "--target", TARGET, "--model", "ridge", *registry)
    for command in ("list", "rank", "table", ("show", "sft-9"), "tag"):
        run(*([command] if isinstance(command, str) else command), *registry)
    search = ("--space", "mix.toml", "--storage", storage, "--target", TARGET, *registry)
    run("search", "ask", "--sampler", "random", *search)
    run("search", "tell", 0, "--value", 0.5, *search)
    run("search", "sync", *search)
    run("search", "report", *search)
    wrong = (("show", "nothing"), ("outcome", "nothing", *RL, "--value", 1, "--benchmark", "a"))
    for words in (*wrong, ("fit", "--target", "nothing"), ("resolve", "models:/nothing@rl-ready")):
        run(*words, *registry, code=2)
    run("search", "tell", 77, "--value", 0.5, *search, code=2)


@pytest.mark.slow
def test_a_registry_in_sqlite_keeps_no_secret_of_its_uri(
    run: Run, tmp_path: Path, empty_database: Path
) -> None:
    copy_database(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}?password={QUOTED}"
    work(run, uri, f"sqlite:///{tmp_path / 'search.db'}?secret={QUOTED}", tmp_path, "rlready")


@pytest.mark.slow
def test_a_registry_in_postgresql_keeps_no_password(
    run: Run, tmp_path: Path, postgres_uri: str
) -> None:
    """The server trusts every password; the study has a database of its own."""
    fresh = fresh_postgres_database(postgres_uri)
    uri, storage = (one.replace("rlready@", f"rlready:{QUOTED}@") for one in (postgres_uri, fresh))
    experiment = new_experiment(postgres_uri, tmp_path)
    work(run, uri, storage.replace("+psycopg2", ""), tmp_path, experiment)
    assert not leaks(every_text(postgres_uri) + every_text(fresh))


def every_text(uri: str) -> str:
    """All rows of all tables of a database."""
    import sqlalchemy as sa

    engine = sa.create_engine(MlflowStore(uri)._backend.uri, poolclass=sa.pool.NullPool)
    tables = sa.inspect(engine).get_table_names()
    with engine.connect() as connection:
        rows = [connection.execute(sa.text(f'SELECT * FROM "{name}"')).all() for name in tables]
    return repr(rows)
