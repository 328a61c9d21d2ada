"""TOML files that people write: every mistake names the file, the key and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, field_validator

from rlready.registry.errors import ConfigError
from rlready.registry.toml_file import TomlTable, check_table, read_toml_file


class Entry(TomlTable):
    """One entry of a list."""

    step: int
    share: float = 1.0
    kind: str = "sft"
    is_log: bool = Field(default=False, alias="log")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind == "unheard":
            raise ValueError("Take base, sft or rl")
        if kind == "broken":
            raise ConfigError("kind is broken", fix="Mend it")
        return kind


class Entries(TomlTable):
    """A file with lists, named tables and a single table."""

    checkpoint: list[Entry] = Field(default=[], min_length=1)
    named: dict[str, Entry] = Field(default={})
    main: Entry | None = None


def test_a_file_becomes_a_model(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text("[[checkpoint]]\nstep = 5\nshare = 1\n")
    entries = read_toml_file(tmp_path / "list.toml", Entries)
    assert entries == Entries(checkpoint=[Entry(step=5, share=1.0)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[checkpoint]]\nstep = 'last'",
            r"checkpoint\[0\]\.step is 'last'\. It should be a",
        ),
        ("[[checkpoint]]\nstep = 1.0", r"checkpoint\[0\]\.step is 1\.0\. It should be a valid int"),
        ("[[checkpoint]]\nstep = true", r"checkpoint\[0\]\.step is True"),
        ("[[checkpoint]]\nshare = 1", r"checkpoint\[0\]\.step is missing. Add"),
        (
            "[[checkpoint]]\nstep = 1\nsteps = 2",
            r"unknown key 'steps'.*Known keys: step, share",
        ),
        ("checkpoint = []", r"checkpoint is \[\]\. .*at least 1 item"),
        ("check = []", "the file has the unknown key 'check'. Known keys: checkpoint, named"),
        ("named = 1", r"named is 1\. It should be a table: write \[named\]"),
        ("named.a = 1", r"named\.a is 1\. It should be a table: write \[named\.a\]"),
        ("[named.a]\nstep = 1\nis_log = true", r"\[named\.a\] has .* 'is_log'.*share, kind, log\."),
        ("[named.step]\nstep = 1\nlow = 2", r"\[named\.step\] has the unknown key 'low'"),
        ("[named.'a.b']\nstep = 1\nshare = inf", r"named\.'a\.b'\.share is inf.*finite number"),
        (
            "[main]\nstep = 1\nlow = 2",
            r"table \[main\] has the unknown key 'low'.*Known keys: step",
        ),
        ("[main]\nstep = 1\nkind = 'unheard'", r"main\.kind is 'unheard'\. Take base, sft or rl"),
        ("[main]\nstep = 1\nkind = 'broken'", r"kind is broken\. Mend it"),
        ("main = {", "is no"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"list.toml.*{message}"):
        read_toml_file(path, Entries)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml"):
        read_toml_file(tmp_path / "none.toml", Entries)


@pytest.mark.parametrize("values", [{"main": {"step": "x" * 1000}}, {"main": {"s" * 200: 1}}])
def test_a_long_value_is_cut(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_table(values, Entries)
    assert len(str(caught.value)) < 300
