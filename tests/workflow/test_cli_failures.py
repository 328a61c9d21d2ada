"""How the command line ends when something fails: one line, an exit code, no traceback."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.cli.main import main
from rlready.workflow.terminal import escaped

SECRET = "hunter2x"
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Call:
    """Calls rlready in an empty folder, with an empty registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes reading the registry fail with an error."""

    def fail_with(error: BaseException) -> None:
        def checkpoints(self: MlflowStore) -> None:
            raise error

        monkeypatch.setattr(MlflowStore, "checkpoints", checkpoints)

    return fail_with


def one_line(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_fault_of_ours_is_one_line_and_a_private_file(
    call: Call, failing: Any, tmp_path: Path
) -> None:
    uri = f"postgresql://me:{SECRET}@host/db"
    failing(KeyError(f"x of {uri}"))
    line = one_line(call("list", "--tracking-uri", "sqlite:///mlflow.db"), 1)
    assert line.startswith(
        "error: rlready failed with KeyError: 'x of postgresql://me:***@host/db'"
    )
    (path,) = (tmp_path / "cache/rlready/errors").iterdir()
    assert f"Details are in {path}; please report it" in line
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "KeyError" in text
    assert SECRET not in text


def test_a_fault_is_told_though_its_file_cannot_be_written(
    call: Call, failing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(ValueError())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere" / "x"))
    (tmp_path / "nowhere").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nowhere"))
    assert "could not be written to a file" in one_line(call("list"), 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/d/x"),
            "/d/x: No space left.*Make room",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/d/x"), "/d/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/d"), "Read-only.*may read and write"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/d"), "/d: Is a directory"),
        (OSError("disk on fire"), "disk on fire"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (MemoryError(), "memory of this machine.*--batch-size"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "the package x is missing"),
        (UnicodeEncodeError("utf-8", "a\udc80b", 1, 2, "surrogates"), r"'a\\udc80b'.*not UTF-8"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_ours(
    call: Call, failing: Any, error: Exception, message: str
) -> None:
    import re

    failing(error)
    line = one_line(call("list"), 2)
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_ctrl_c_says_what_is_kept(call: Call, failing: Any) -> None:
    failing(KeyboardInterrupt())
    result = call("list")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing is half done; repeat the call\n"


def test_nobody_reading_is_silent(call: Call, failing: Any) -> None:
    failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    result = call("list")
    assert (result.exit_code, result.output) == (141, "")


@pytest.mark.slow
def test_a_closed_pipe_or_stream_leaves_no_word() -> None:
    """In processes of their own: Python itself writes when it cannot flush at its end."""
    code = "from rlready.workflow.cli.main import main; main()"
    words = [sys.executable, "-c", code, "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.stderr == b""
    shell = 'exec "$0" -c "$1" list --tracking-uri sqlite:////nowhere/x.db >&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, code], stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"there is no folder /nowhere" in done.stderr


def test_a_password_in_a_parameter_of_mlflow_run_is_warned_of(
    call: Call, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)
    result = call("list", "--tracking-uri", f"{sqlite_uri}?password={SECRET}")
    assert result.exit_code == 0
    assert "warning: a URI with a password is a parameter of `mlflow run`" in result.stderr
    assert SECRET not in result.output
    assert "warning" not in call("list").stderr


HOSTILE = "\x1b[31mred\x1b[0m [link=http://x]y[/link] [red]z\r\x9b1m\u202e"


def test_names_are_shown_and_not_obeyed(call: Call, sqlite_uri: str) -> None:
    """Escape sequences, markup of rich, carriage returns, marks that turn the direction."""
    store = MlflowStore(sqlite_uri)
    recipe = Recipe(base_model=HOSTILE, sources={HOSTILE: 1.0}, learning_rate=1e-5)
    checkpoint = a_checkpoint(1, name=HOSTILE, recipe=recipe)
    proxies = (a_proxy(name="pass_at_1", benchmark=HOSTILE), a_proxy(name=HOSTILE))
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
    store.put_outcome(an_outcome(1, benchmark=HOSTILE, algorithm=HOSTILE, rl_recipe={"a": HOSTILE}))
    rl = ("--algorithm", HOSTILE, "--budget", 1, "--budget-unit", "steps", "--benchmark", HOSTILE)
    for words in (
        ("list",),
        ("show", checkpoint.id),
        ("show", checkpoint.id, "--json"),
        ("show", HOSTILE + "?"),
        ("outcome", checkpoint.id, *rl, "--value", 0.5),
        ("table", "--target", HOSTILE),
        ("rank", "--predictor", HOSTILE),
        ("fit",),
    ):
        output = call(*words).output
        assert not set("\x1b\r\x9b\u202e") & set(output), words
    shown = "".join(call("show", checkpoint.id).output.split())
    assert "[link=http://x]y[/link][red]z" in shown
    assert "\\u001b[31mred" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gsm8k é 名前 🙂 ½\u00a0%\n\tx", "gsm8k é 名前 🙂 ½\u00a0%\n\tx"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\udc80", "\\udc80"),
        ("a\u200bb\U000e0041", "a\\u200bb\\udb40\\udc41"),
    ],
)
def test_a_code_stands_for_what_a_terminal_obeys(text: str, shown: str) -> None:
    import json

    assert escaped(text) == shown
    as_json = escaped(json.dumps(text, ensure_ascii=False))
    assert json.loads(as_json) == text
