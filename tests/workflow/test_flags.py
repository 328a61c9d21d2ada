"""Flags from parameters and fields, and repeated values in one text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner

from rlready.workflow.flags import Flag, command, split_paths


@dataclass(frozen=True, kw_only=True)
class Bread:
    """A loaf.

    Args:
        grain: What it is made of,
            mostly.  [default: rye]
        grams: Weight.
        seeds: Seeds in it. Repeatable.
        slices: Thicknesses, mm.
    """

    grain: Literal["rye", "wheat"] | None = None
    grams: Annotated[int, click.IntRange(min=1)] = 500
    seeds: Annotated[tuple[str, ...], Flag("--seed")] = ("poppy",)
    slices: tuple[int, ...] = ()


@command
def bake(baker: str, *, count: int, bread: Bread, is_dark: bool = False) -> None:
    """Bake bread for BAKER.

    Args:
        baker: Who bakes.
        count: How many.
        bread: What to bake.
        is_dark: Bake longer.
    """
    click.echo(f"{baker} {count} {is_dark} {bread}")


@command
def shop(*, grain: str = "oat", later: partial[Bread]) -> None:
    """Buy bread.

    Args:
        grain: The function's own parameter hides a field of the same name.
        later: Filled in by the shop.
    """
    click.echo(f"{grain} {later.keywords} {later(grams=1)}")


def test_parameters_and_fields_become_arguments_and_flags() -> None:
    words = ["Ann", "--count", "2", "--grain", "rye", "--seed", "a, b", "--slices", "9,12"]
    done = CliRunner().invoke(bake, [*words, "--is-dark"])
    bread = Bread(grain="rye", seeds=("a", "b"), slices=(9, 12))
    assert done.output == f"Ann 2 True {bread}\n"
    # `mlflow run` gives empty texts for what is not set; then the defaults of the fields count.
    done = CliRunner().invoke(bake, ["Ann", "--count", "2", "--grain", "", "--seed", ""])
    assert done.output == f"Ann 2 False {Bread()}\n"


def test_help_is_the_docstring_without_its_arguments() -> None:
    text = CliRunner().invoke(bake, ["--help"]).output
    assert "Bake bread for BAKER." in text
    assert "Args:" not in text
    words = " ".join(text.split())
    assert "--grain [rye|wheat] What it is made of, mostly. [default: rye]" in words
    assert "Weight. [default: 500; x>=1]" in words
    assert "--count INTEGER How many. [required]" in words


@pytest.mark.parametrize(
    "words", [["Ann"], ["--count", "2"], ["Ann", "--count", "2", "--slices", "9,x"]]
)
def test_a_missing_or_wrong_value_is_a_usage_error(words: list[str]) -> None:
    assert CliRunner().invoke(bake, words).exit_code == 2


def test_a_partial_gets_the_values_and_makes_the_object_later() -> None:
    done = CliRunner().invoke(shop, ["--grams", "7"])
    assert done.output == f"oat {{'grams': 7}} {Bread(grams=1)}\n"


@command
def parts(files: Annotated[tuple[str, ...], Flag(split=split_paths)] = ()) -> None:
    """Print the arguments."""
    click.echo("|".join(files), nl=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl, b.jsonl", "a.jsonl|b.jsonl"),
        ("toy=a.jsonl,two=b.jsonl", "toy=a.jsonl|two=b.jsonl"),
        ("a,b.jsonl", "a,b.jsonl"),
        ("x.jsonl,toy=a,b.jsonl,y.jsonl", "x.jsonl|toy=a,b.jsonl|y.jsonl"),
        ("toy=a, c=1.jsonl", "toy=a, c=1.jsonl"),
        (",,x.jsonl,", "x.jsonl"),
        ("", ""),
        ("\0," + "x" * 5000, "\0|" + "x" * 5000),
    ],
)
def test_an_existing_path_is_never_split_at_commas(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jsonl", "a, c=1.jsonl"):
        (tmp_path / name).touch()
    assert CliRunner().invoke(parts, ["--", text]).output == expected
