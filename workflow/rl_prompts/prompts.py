"""The prompts of an RL run: a file of problems, with its rows for reward functions and filters.

Rows are read as those of a benchmark (`evaluators/benchmarks`), with two differences: rows that
repeat a prompt are measured once, and with a reward function no reference answer is needed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.fields import AnswerForm, Fields, to_problem
from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.benchmarks.row_fields import columns_of, field_values
from rlready.evaluators.benchmarks.rows import Row, file_rows
from rlready.evaluators.verification.custom_reward import plain_row
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.records import Problem

_FORMS = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class RlPrompts:
    """The prompts of a file.

    Args:
        path: the file.
        problems: the different prompts that are measured, in the order of the file.
        ids: id of the prompt of each row of the file.
        rows: values of each row of the file.
    """

    path: Path
    problems: tuple[Problem, ...]
    ids: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def n_repeated(self) -> int:
        """Rows that repeat the prompt and the answer of an earlier row."""
        return len(self.ids) - len(set(self.ids))

    def first_rows(self) -> dict[str, Mapping[str, Any]]:
        """Return the first row of each prompt, by the prompt's id."""
        return dict(zip(reversed(self.ids), reversed(self.rows), strict=True))

    def benchmark(self) -> Benchmark:
        """Return the prompts as a benchmark, named after the file."""
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.path.name.partition(".")[0]).strip("_.-")
        return Benchmark(
            name=stem[:80] or "rl_prompts", problems=self.problems, source=str(self.path)
        )

    def drawn(self, n: int | None, seed: int) -> RlPrompts:
        """Return the file with n of its prompts to measure, drawn at random; None keeps all."""
        if n is None or n >= len(self.problems):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.problems)), n))
        return dataclasses.replace(self, problems=tuple(self.problems[i] for i in chosen))


def load_rl_prompts(path: Path, *, has_answers: bool) -> RlPrompts:
    """Return the prompts of a file.

    Args:
        path: JSON lines, a JSON list, Parquet or CSV.
        has_answers: whether each row needs a reference answer. Otherwise none is read, because a
            function gives the reward.

    Raises:
        BenchmarkError: if the file cannot be read, or a row has no prompt or no answer; the message
            names file and line.

    Example:
        >>> load_rl_prompts(Path("rl.jsonl"), has_answers=True).problems[0].answers
        ('4',)
    """
    fields, form = Fields(), AnswerForm() if has_answers else None

    def columns(where: str, names: Sequence[str]) -> list[str]:
        if has_answers and not columns_of(names, fields.answer):
            raise _no_answer(where, names, fields)
        return list(names)

    by_id: dict[str, list[Problem]] = {}
    ids, rows = [], []
    for row in file_rows(path, columns):
        if has_answers and not field_values(row.values, fields.answer):
            raise _no_answer(row.where, list(row.values), fields)
        problem = _distinct(to_problem(row, fields, form), by_id, row)
        ids.append(problem.id)
        rows.append(row.values)
    if not rows:
        raise BenchmarkError(f"{path} holds no prompts", fix="Write one JSON object a line")
    problems = {problem.id: problem for some in by_id.values() for problem in some}
    order = dict.fromkeys(ids)
    return RlPrompts(
        path=path,
        problems=tuple(problems[id_] for id_ in order),
        ids=tuple(ids),
        rows=tuple(rows),
    )


def _distinct(problem: Problem, by_id: dict[str, list[Problem]], row: Row) -> Problem:
    """Return the problem, or the equal one of an earlier row; another one with its id is renamed.

    Several sources in one file often number their rows from 0.
    """
    earlier = by_id.setdefault(problem.id, [])
    for other in earlier:
        if (other.text, other.answers) == (problem.text, problem.answers):
            return other
    number = len(earlier) + 1
    renamed = problem if number == 1 else dataclasses.replace(problem, id=f"{problem.id}#{number}")
    if number > 1 and renamed.id in by_id:
        raise BenchmarkError(
            f"{row.where} has the id {problem.id!r}, which several prompts share, and another "
            f"prompt is called {renamed.id!r}",
            fix="Give each prompt its own id",
        )
    earlier.append(renamed)
    return renamed


def _no_answer(where: str, names: Sequence[str], fields: Fields) -> BenchmarkError:
    return BenchmarkError(
        f"{where} has no reference answer",
        why=f"none of the fields {', '.join(map(repr, fields.answer))} has a value; it has the "
        f"fields {', '.join(map(repr, names)) or 'none'}",
        fix="Fill it, or give the function that computes the reward: --reward module:function",
    )


def check_new_file(path: Path, source: Path) -> None:
    """Check that a file of filtered prompts can be written.

    Raises:
        ConfigError: if it exists, its folder is missing, or it is of another form.
    """
    is_parquet = path.suffix == ".parquet" and source.suffix.lower() == ".parquet"
    if path.suffix != ".jsonl" and not is_parquet:
        raise ConfigError(
            f"--write-filtered {path} is of another form",
            why=f"filtered prompts are written as {' or '.join(_FORMS)}, the latter only from "
            "Parquet",
            fix="Give a name that ends in .jsonl",
        )
    if path.exists():
        raise ConfigError(
            f"--write-filtered {path} exists",
            why="an existing file is never overwritten",
            fix="Give a new name, or remove the file",
        )
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", fix="Create it")


def write_filtered(prompts: RlPrompts, dropped: Collection[str], path: Path) -> int:
    """Write the rows without some prompts to a new file, and return the number of rows.

    Rows of prompts that were not measured are kept.

    Args:
        prompts: the whole file.
        dropped: ids of the prompts to leave out.
        path: the new file.

    Raises:
        ConfigError: if the file exists or cannot be written; nothing is left of it then.
    """
    gone = set(dropped)
    kept = [i for i, id_ in enumerate(prompts.ids) if id_ not in gone]
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        if path.suffix == ".parquet":
            _write_parquet(prompts.path, kept, temporary)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                for i in kept:
                    file.write(json.dumps(plain_row(prompts.rows[i]), ensure_ascii=False) + "\n")
        # Unlike a renaming, a link never replaces a file that appeared meanwhile.
        os.link(temporary, path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Give another file to --write-filtered; the samples are kept",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(kept)


def _write_parquet(source: Path, rows: Sequence[int], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    pq.write_table(table.take(pa.array(rows, pa.int64())), path)
