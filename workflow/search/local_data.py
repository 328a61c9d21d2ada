"""The files that a space file names: rows of sources, and benchmarks to keep out of them.

    [sources.gsm8k]
    path = "gsm8k.jsonl"                  # JSON lines, a JSON list, Parquet or CSV
    fields = {problem = "question", solution = "answer"}
    counts = "counts/gsm8k.parquet"       # or pass_rate = "NAME OF A COLUMN"

    [decontaminate]
    benchmarks = ["aime=aime.jsonl"]      # default: those of [evaluate]; [] for none
    max_share = 0.1

Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.problems import (
    BenchmarkSource,
    load_suite,
    override,
    parse_benchmark_option,
)
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import SpaceFile
from rlready.workflow.search.sources import LocalSource


def local_sources(
    file: SpaceFile, space: RecipeSpace, folder: Path, data: Mapping[str, Path]
) -> tuple[LocalSource, ...]:
    """Return the sources that are files here, in the order of the space.

    Args:
        file: the space file.
        space: its recipes.
        folder: folder of the space file.
        data: files in place of those of the space file, by the name of the source.
    """
    sources = []
    for source in space.sources:
        table = file.sources[source.name]
        path = data.get(source.name) or (folder / table.path if table.path else None)
        if path is not None:
            local = LocalSource(
                name=source.name,
                path=path,
                fields=table.fields,
                pass_rate=table.pass_rate,
                counts=folder / table.counts if table.counts else None,
                max_repetitions=source.max_repetitions,
            )
            sources.append(local)
    return tuple(sources)


def benchmark_sources(
    file: SpaceFile, evaluate: Mapping[str, Any], folder: Path
) -> tuple[BenchmarkSource, ...]:
    """Return the benchmarks with which rows must not overlap.

    Args:
        file: the space file.
        evaluate: fields of `EvaluateConfig` that its table [evaluate] sets.
        folder: folder of the space file.

    Raises:
        RlreadyError: if one is not named as in `rlready evaluate --benchmark`.
    """
    given = file.decontaminate.benchmarks
    if given is not None:
        return tuple(
            dataclasses.replace(source, location=folder / source.location)
            if isinstance(source.location, Path)
            else source
            for source in map(parse_benchmark_option, given)
        )
    sources = tuple(map(parse_benchmark_option, evaluate.get("benchmarks", ())))
    suite = evaluate.get("suite")
    return sources if suite is None else override(load_suite(suite), sources).sources
