"""Broken files and odd values for every flag of every command: an exit code, never a traceback.

Each call has one thing wrong, so exit code 1, a fault of ours, is never right. Which calls are made
is drawn with a fixed seed from all of them; `RLREADY_FUZZ=all` makes them all (about ten minutes).
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from backends import copy_database
from click.testing import CliRunner
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.cli.main import main

N_CALLS = 200
_LIMIT_S = 20

NUMBERS = ["nan", "inf", "-inf", "-1", "0", "-0.0", "1e309", "1e-320", "9" * 23, "x", "0x10", " "]
TEXTS = [
    *(" ", "\x1b[31mred\x1b[0m", "[red]x[/]", "a" * 5_000, "../../x", "名前", "\udcff", "a=b=c"),
    *("=", "a=", ",", "a,b", "/", "models:/x", "http://u:p@127.0.0.1:1", "%s%n{}", "'", '"'),
    *("\n", "-", "@", ":", "#", "x@y"),
]
URIS = [
    *("sqlite://", "sqlite:///", "sqlite:////nowhere/x.db", "sqlite:///empty", "sqlite:///binary"),
    *("sqlite:///folder", "postgresql://", "postgresql://u:p@h:port/d", "mysql://h/x", "foo://x"),
    *("postgresql://u:p@127.0.0.1:1/d", "foo", "http://", "://", "file:///tmp", "sqlite:///a?b=c"),
]
FILES: dict[str, str | bytes] = {
    "empty": "",
    "binary": bytes(range(256)) * 4,
    "cut.json": '{"a": [1, 2',
    "number.json": "3",
    "object.json": '{"a": {"b": [1, null, "x"]}}',
    "bad.toml": "a = = 3",
    "odd.toml": 'a = 3\n[b]\nc = [1, "x", {d = 2}]\n',
    "types.toml": 'recipe = 3\nsources = 5\nlearning_rate = "x"\nwhen = 2026-01-01\nsuite = []\n',
    "nul.toml": '[[checkpoint]]\ncheckpoint = "a\\u0000b"\nname = "\\u001b[31m"\n',
    "numbers.toml": '[recipe]\nbase_model = "b"\n[sources.a]\nfloor = nan\n[epochs]\nlow = inf\n',
    "rows.jsonl": '{"problem": 3, "answer": []}\n{"prompt": null}\n5\n',
    "short.csv": "a,b\n1\n",
    "twice.csv": "a,a\n1,2\n",
    "open.csv": '"unclosed\n',
    "numbers.csv": "id,x,y\n1,nan,inf\n2,x,\n3,1e309,-1\n",
    "latin.csv": "n\xe4me,x\n1,2\n".encode("latin-1"),
    "utf16.csv": "steps,gsm8k\n0,0.4\n".encode("utf-16"),
    "cut.parquet": b"PAR1xxxxPAR1",
    "cut.gz": b"\x1f\x8b\x08\0garbage",
    "template.txt": "{problem} {x} {",
}
GOOD = {
    "curve.csv": "steps,gsm8k\n0,0.4\n60,0.5\n",
    "mix.toml": '[recipe]\nbase_model = "org/base"\n[sources.gsm8k]\n[sources.numina]\n',
    "toy.jsonl": '{"problem":"1+1","answer":"2"}\n',
    "t.csv": "id,x,y\n" + "".join(f"{i},{i * 0.1},{i * 0.2 + i % 3}\n" for i in range(10)),
}
SPACE = ("--space", "mix.toml")
COMMANDS: dict[str, tuple[str, ...]] = {
    # The checkpoint is missing: the other flags are checked before it is looked for, or never.
    "evaluate": ("missing", "--benchmark", "toy=toy.jsonl", "--device", "cpu"),
    "list": (),
    "show": ("sft-1",),
    "outcome": (
        *("sft-1", "--curve", "curve.csv", "--algorithm", "grpo"),
        *("--budget", "60", "--budget-unit", "steps"),
    ),
    "table": (),
    "fit": ("--model", "pass_at_1"),
    "validate": ("--table", "t.csv", "--target", "y", "--features", "x", "--model", "ridge"),
    "rank": (),
    "plan": ("--rl-runs", "1"),
    "tag": ("--dry-run",),
    "resolve": ("sft-1",),
    "search ask": (*SPACE, "--cold", "--sampler", "random"),
    "search tell": ("0", *SPACE, "--cold", "--value", "0.5"),
    "search sync": (*SPACE, "--cold"),
    "search report": (*SPACE, "--cold"),
    "search run": (*SPACE, "--cold", "--sampler", "random", "--train-command", "true"),
    "testbed": ("--profile", "nothing"),
}
# What a call would do for long with a right value, or leave in the folder of another test.
LEFT_OUT = {("search ask", "--trials"), ("search run", "--trials")}
HELD = ("--benchmark", "--held-out", "--suite", "--base", "--train-command", "--rl-checkpoint")


def values_of(name: str, param: click.Parameter) -> list[str]:
    """Odd values for a flag or an argument, by its type."""
    kind = getattr(param.type, "kind", param.type)
    option = param.opts[0]
    paths = [*FILES, "folder", "missing", "loop", "binary/x", "a" * 300]
    if option in ("--out", "--figure", "--predictions"):
        return [*paths, "/dev/full"]
    if isinstance(kind, click.Path):
        return paths
    if isinstance(kind, click.types.FloatParamType | click.types.IntParamType):
        return NUMBERS
    if option in ("--tracking-uri", "--storage"):
        return URIS + TEXTS
    return TEXTS + [f"n={path}" for path in paths] + paths if option in HELD else TEXTS


def calls() -> Iterator[list[str]]:
    """Every command with one odd value, as the words of a command line."""
    for name, base in COMMANDS.items():
        for param in main.commands[name.split()[0]].params:
            if param.name in ("action", "profile") or (name, param.opts[0]) in LEFT_OUT:
                continue
            if isinstance(param, click.Option) and param.is_flag:
                continue
            for value in values_of(name, param):
                yield [*name.split(), *with_value(list(base), param, value)]


def with_value(words: list[str], param: click.Parameter, value: str) -> list[str]:
    """The words with this value in the place of the parameter's own."""
    if isinstance(param, click.Argument):
        rest = words[1:] if words and not words[0].startswith("-") else words
        return [*rest, "--", value]
    option = param.opts[0]
    if option in words:
        at = words.index(option)
        del words[at : at + 2]
    if option in ("--value", "--rl-checkpoint") and "--curve" in words:
        at = words.index("--curve")
        del words[at : at + 2]
        words += ["--benchmark", "gsm8k"]
    return [*words, option, value]


@pytest.fixture(scope="module")
def folder(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with broken files, good ones, and a registry in which a predictor can be fitted."""
    made = tmp_path_factory.mktemp("fuzz")
    for name, content in {**FILES, **GOOD}.items():
        (made / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (made / "folder").mkdir()
    (made / "loop").symlink_to(made / "loop")
    copy_database(empty_database, made / "mlflow.db")
    store = MlflowStore(f"sqlite:///{made / 'mlflow.db'}")
    for number in range(1, 6):
        recipe = Recipe(base_model="b", sources={"gsm8k": 1.0}, learning_rate=1e-5)
        proxies = (a_proxy(name="pass_at_1", value=0.3 + 0.04 * number, se=0.01),)
        checkpoint = a_checkpoint(number, name=f"sft-{number}", recipe=recipe)
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        store.put_outcome(an_outcome(number, value=0.4 + 0.05 * number, se=0.005))
    return made


@pytest.fixture
def hangs_are_interrupted() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("hangs_are_interrupted")
def test_a_mistake_gives_an_exit_code_and_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    every = list(calls())
    chosen = every if os.environ.get("RLREADY_FUZZ") else random.Random(11).sample(every, N_CALLS)
    wrong: list[Any] = []
    for words in chosen:
        print(*(word[:60] for word in words))
        signal.alarm(_LIMIT_S)  # a call that hangs is interrupted, which is no right exit code
        done = CliRunner().invoke(main, words)
        signal.alarm(0)
        if done.exit_code not in (0, 2) or "Traceback" in done.output:
            wrong.append(([word[:60] for word in words], done.exit_code, done.output[-300:]))
    assert not wrong
