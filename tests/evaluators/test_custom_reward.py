"""A user's reward function: what it may do wrong leaves the other samples as they are."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from rlready.evaluators.verification.custom_reward import RewardFunction, plain_row
from rlready.registry.errors import ConfigError

SOURCE = """
import os, signal, sys, time

def reward(prompt, completion, row):
    print("noise on stdout")
    if completion == "raise":
        raise ValueError("no\\nnumber <b>")
    if completion == "hang":
        time.sleep(60)
    if completion == "stubborn":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    if completion == "exit":
        sys.exit(3)
    if completion == "die":
        os._exit(1)
    if completion in ("text", "none", "nan", "inf", "list"):
        return {"text": "1", "none": None, "nan": float("nan"), "inf": float("inf"), "list": [1]}[completion]
    if completion == "alarm":
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(0)
        return 0.25
    if completion == "true":
        return True
    return row["weight"] * len(prompt)
"""  # noqa: E501


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardFunction]:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(SOURCE)
    with RewardFunction(f"{path}:reward", timeout_s=0.5) as function:
        function.check()
        yield function


def test_each_fault_leaves_one_sample_unscored_with_its_reason(function: RewardFunction) -> None:
    words = ["good", "raise", "hang", "exit", "text", "none", "nan", "inf", "list", "true", "good"]
    samples = [("two", word, {"weight": 0.5}) for word in words]
    done = []
    rewards, reasons = function.rewards(samples, done.append)
    assert rewards == [1.5, *[None] * 8, 1.0, 1.5]
    assert sum(reasons.values()) == 8
    assert sum(done) == len(samples)
    assert reasons["it raised ValueError: no number <b>"] == 1
    assert reasons["not done within 0.5 s"] == 1
    assert reasons["it raised SystemExit: 3"] == 1
    assert reasons["it returned nan, not a finite number"] == 1
    assert reasons["it returned a list, not a finite number"] == 1


def test_a_function_that_ignores_the_alarm_or_ends_its_process_is_killed(
    function: RewardFunction,
) -> None:
    rewards, reasons = function.rewards(
        [("two", word, {"weight": 0.5}) for word in ("good", "stubborn", "die", "good")]
    )
    assert rewards == [1.5, None, None, 1.5]
    assert reasons == {"it hung and was killed": 1, "its process died, twice": 1}


def test_a_library_that_sets_the_alarm_does_not_lift_the_time_limit(
    function: RewardFunction,
) -> None:
    rewards, reasons = function.rewards(
        [("two", word, {"weight": 0.5}) for word in ("alarm", "hang", "good")]
    )
    assert rewards == [0.25, None, 1.5]
    assert list(reasons) == ["not done within 0.5 s"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:reward", "ModuleNotFoundError"),
        ("json:no_such_function", "AttributeError"),
        ("json:__name__", "not a function"),
        ("missing.py:reward", "there is no file missing.py"),
        ("broken.py:reward", "SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_error(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def reward(:")
    with (
        RewardFunction(name) as function,
        pytest.raises(ConfigError, match=f"cannot be loaded.*{reason}"),
    ):
        function.check()


@pytest.mark.parametrize("name", ["reward", ":reward", "module:", ""])
def test_a_name_without_module_or_function_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="does not name a function"):
        RewardFunction(name)


def test_a_row_becomes_json_values() -> None:
    row = {"a": Decimal("1.5"), "b": [b"\x00"], "c": datetime.date(2026, 1, 2), "d": {"e": None}}
    assert plain_row(row) == {"a": 1.5, "b": ["AA=="], "c": "2026-01-02", "d": {"e": None}}
