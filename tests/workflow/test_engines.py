"""Engines by name, and their options from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rlready.registry.errors import ConfigError
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import parse_options
from rlready.workflow.evaluate.engines import loss_dtype


@dataclass(frozen=True, kw_only=True)
class SomeOptions:
    """Options of an engine that there is not."""

    url: str
    workers: int = 2
    share: float | None = None
    eager: bool = False


def test_options_take_the_types_of_their_fields() -> None:
    given = ["url=http://a/b?c=d", "workers=4", "share=0.5", "eager=True"]
    found = parse_options(SomeOptions, given, "some")
    assert found == SomeOptions(url="http://a/b?c=d", workers=4, share=0.5, eager=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["url=x", "worker=2"], "with one of: url, workers, share, eager"),
        (["url=x", "workers"], "KEY=VALUE"),
        (["url=x", "workers=two"], "'two' is not a whole number"),
        (["url=x", "share=half"], "'half' is not a number"),
        (["url=x", "eager=maybe"], "neither true nor false"),
        (["url=x", "url=y"], "given twice"),
        (["workers=2"], "the engine some needs url"),
    ],
)
def test_a_wrong_option_is_told(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", "[?]")):
        parse_options(SomeOptions, given, "some")


def test_an_unknown_engine_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Known engines: auto, hf"):
        EvaluateConfig(checkpoint=str(tmp_path), engine="vlm")


def test_a_wrong_number_format_names_the_known(tmp_path: Path) -> None:
    for engine, option in (
        ("auto", "dtype=bf16"),
        ("hf", "dtype=bf16"),
        ("ray", "inner.dtype=bf16"),
    ):
        with pytest.raises(ConfigError, match=r"dtype is 'bf16'.*bfloat16, float16, float32"):
            EvaluateConfig(checkpoint=str(tmp_path), engine=engine, engine_options=(option,))
    with pytest.raises(ConfigError, match=r"the engine hf has no such option.*dtype"):
        EvaluateConfig(checkpoint=str(tmp_path), engine_options=("tensor_parallel_size=2",))


@pytest.mark.parametrize(
    ("engine", "options", "dtype"),
    [
        ("auto", (), "auto"),
        ("hf", ("dtype=float16",), "float16"),
        ("ray", ("workers=2", "inner.dtype=bfloat16"), "bfloat16"),
        ("server", ("url=http://127.0.0.1:1",), "auto"),
    ],
)
def test_losses_are_computed_in_the_number_format_of_the_hf_engine(
    engine: str, options: tuple[str, ...], dtype: str, tmp_path: Path
) -> None:
    config = EvaluateConfig(checkpoint=str(tmp_path), engine=engine, engine_options=options)
    assert loss_dtype(config) == dtype
