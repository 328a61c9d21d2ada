"""What the command line makes of repeated values in one text."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rlready.workflow.cli.options import several_paths


@click.command()
@click.option("--file", "files", multiple=True, callback=several_paths)
def parts(files: tuple[str, ...]) -> None:
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
    assert CliRunner().invoke(parts, ["--file", text]).output == expected
