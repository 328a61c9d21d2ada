r"""Samples that RL trainers write: verl, TRL, ms-swift, NeMo-RL, SkyRL, AReaL, open-instruct.

Sources: the writing code of each trainer at the commits in `tests/data/importers/README.md`.

| trainer | file | a row |
| --- | --- | --- |
| verl | `<step>.jsonl` | input, output, gts, score, step; newer: acc, uid; data_source |
| TRL | `completions_<step>.parquet` | step, prompt, completion, a column a reward function |
| ms-swift | `completions.jsonl` | the same as lists, one line a step, `step` or `gen_step` |
| NeMo-RL | `val_data_step<N>.jsonl` | content (chat messages), rewards, idx |
| SkyRL | `global_step_<N>_evals/*.jsonl` | input_prompt, output_response, score, env_extras |
| AReaL | `eval-rollout/<version>/<task>.jsonl` | task_id, sample_idx, reward, prompt, completion |
| open-instruct | `*_rollouts_*.jsonl` | step, prompt_idx, sample_idx, reward, ground_truth |
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rlready.registry.digest import digest
from rlready.workflow.importers.drawn import Drawn, Settings
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.source_rows import SourceRow, alike

_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_VERL_UID = re.compile(r"(.+)_\d+_\d+")
_VERIFICATION_REWARD = 10.0
_NOT_REWARDS = (
    *("step", "gen_step", "prompt", "completion", "advantage", "advantages", "images"),
    *("entropy", "num_turns", "completion_length", "response_length"),
)


def verl(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line. `acc` is the verdict; `score` may hold bonuses or be -1 and 1."""
    name = file.path.parent.name
    keys, is_numbered = _Keys(), None
    for row in alike(file.rows(), "acc", "step", "uid", "data_source", "dataset"):
        field = score or ("acc" if row.has("acc") else "score")
        step = row.whole("step") if row.has("step") else _number_in(row, file.path.stem)
        source = next((n for n in ("data_source", "dataset") if row.has(n)), None)
        golds = _golds(row, "gts") if row.has("gts") else ()
        question = row.question("input")
        uid = _VERL_UID.fullmatch(row.text("uid")) if row.has("uid") else None
        is_numbered = (uid is not None) if is_numbered is None else is_numbered
        if is_numbered != (uid is not None):
            row.refuse("uid", f"is {row.text('uid')!r}, of another form than in the first row")
        yield Drawn(
            series=row.text(source) if source else name,
            is_named=source is not None,
            is_training="rollout" in name or "train" in name,
            step=step,
            # `<problem>_<sample>_<turn>`, or else the text: other uids change from step to step.
            problem=uid[1] if uid else keys.key(row, "gts", question, golds),
            where=row.where,
            score_field=field,
            scores=[row.number(field)],
            question=question,
            golds=golds,
            texts=[row.conversation("output")],
        )


def trl(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a row of a Parquet file of completions."""
    column = score
    for row in file.rows():
        if column is None:
            numbers = [name for name, value in row.values.items() if _is_number(value)]
            column = _reward_column(row, [name for name in numbers if name not in _NOT_REWARDS])
        yield _completion(row, row.whole("step"), column)


def ms_swift(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield the samples of each line, which holds a list for each column."""
    for row in file.rows():
        step_field = "step" if row.has("step") else "gen_step"
        columns = {n: row.sequence(n) for n in row.values if isinstance(row.values[n], list)}
        for needed in (step_field, "prompt", "completion"):
            row.sequence(needed)
        sizes = {name: len(values) for name, values in columns.items()}
        for name, size in sizes.items():
            if size != sizes["prompt"]:
                row.refuse(name, f"holds {size} values, and prompt {sizes['prompt']}")
        rewards = [
            name
            for name, values in columns.items()
            if name not in _NOT_REWARDS and all(_is_number(value) for value in values)
        ]
        column = score or _reward_column(row, rewards)
        seen: Counter[tuple[int, str]] = Counter()
        for number in range(sizes["prompt"]):
            values = {name: column_values[number] for name, column_values in columns.items()}
            each = SourceRow(row.path, f"{row.place}, item {number + 1}", values)
            drawn = _completion(each, each.whole(step_field), column)
            # A resumed run appends a step again: the last line of a step counts.
            index = seen[drawn.step or 0, drawn.problem]
            seen[drawn.step or 0, drawn.problem] += 1
            yield dataclasses.replace(drawn, sample_index=index)


def nemo_rl(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line of validation data."""
    step = _number_in_name(file)
    for row in file.rows():
        messages, reward = _only(row, "content"), _only(row, "rewards")
        inner = SourceRow(row.path, row.place, {"content": messages, "rewards": reward})
        turns = list(inner.items("content"))
        roles = [turn.text("role") for turn in turns]
        if "assistant" not in roles:
            row.refuse("content", "holds no message of the role assistant")
        first = roles.index("assistant")
        question = "\n".join(turn.message() for turn in turns[:first])
        last = len(roles) - 1 - roles[::-1].index("assistant")
        yield Drawn(
            series="validation",
            is_named=False,
            step=step,
            problem=_key(question),
            where=row.where,
            score_field="rewards",
            scores=[inner.number("rewards")],
            question=question,
            texts=[turns[last].message()],
        )


def nemo_rl_evaluation(file: SourceFile, score: str | None) -> Iterator[Drawn | Settings]:
    """Yield the samples of `evaluation_data.json`; `config.json` beside it names the data set."""
    config = SourceFile(file.path.with_name("config.json"), ".json")
    about: dict[str, Any] = {}
    if config.path.is_file():
        about = dict(next(config.rows()).values)
    name = about.get("dataset_name")
    drawn_with = {
        n: about[n] for n in ("temperature", "top_p", "top_k") if about.get(n) is not None
    }
    yield Settings(series=str(name or "evaluation"), values=drawn_with)
    for whole in file.rows():
        for row in whole.items("evaluation_data"):
            question = row.question("prompt")
            yield Drawn(
                series=str(name or "evaluation"),
                is_named=isinstance(name, str),
                problem=_key(question),
                where=f"{row.where}, {row.prefix.rstrip('.')}",
                score_field=f"{row.prefix}reward",
                scores=[row.number("reward")],
                question=question,
                golds=_ground_truth(row),
                texts=[row.conversation("response")],
            )


def skyrl(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line. A list of scores has one for each token: their sum is the score."""
    step = None
    if match := re.fullmatch(r"global_step_(\d+)_evals", file.path.parent.name):
        step = int(match[1])
    keys = _Keys()
    for row in alike(file.rows(), "env_extras", "data_source"):
        question = row.question("input_prompt")
        golds: tuple[str, ...] = ()
        index = ""
        if row.has("env_extras"):
            extras = row.inner("env_extras")
            golds = _nested_gold(extras)
            if isinstance(extras.values.get("extra_info"), dict):
                info = extras.inner("extra_info")
                index = info.text("index") if info.has("index") else ""
        key = keys.key(row, "env_extras", question, golds, index)
        if isinstance(row.value("score"), list):
            of_tokens = row.sequence("score")
            inner = SourceRow(
                row.path, row.place, {f"score[{i}]": s for i, s in enumerate(of_tokens)}
            )
            total = sum(inner.number(name) for name in inner.values)
        else:
            total = row.number("score")
        yield Drawn(
            series=row.text("data_source") if row.has("data_source") else file.path.stem,
            is_named=row.has("data_source") or file.path.stem != "unknown",
            step=step,
            problem=key,
            where=row.where,
            scores=[total],
            question=question,
            golds=golds,
            texts=[row.conversation("output_response")],
            is_truncated=[row.text("stop_reason") == "length"] if row.has("stop_reason") else (),
        )


def areal(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line; the folder is the version of the weights, the file is a prompt."""
    kind, version = file.path.parent.parent.name, file.path.parent.name
    for row in file.rows():
        step = int(version) if version.isdigit() else row.whole("head_version")
        yield Drawn(
            series=kind or "rollout",
            is_named=False,
            is_training=not kind.startswith("eval"),
            step=step,
            problem=row.text("task_id"),
            where=row.where,
            score_field="reward",
            scores=[row.number("reward")],
            question=row.question("prompt"),
            texts=[row.conversation("completion")],
            sample_index=row.whole("sample_idx"),
        )


def open_instruct(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line. The texts are token ids, which only its tokenizer could decode.

    A correct sample has the reward `verification_reward`, 10 by default.
    """
    highest = max((row.number(score or "reward") for row in file.rows()), default=0.0)
    full_score = _VERIFICATION_REWARD if highest >= _VERIFICATION_REWARD else 1.0
    for row in alike(file.rows(), "dataset", "ground_truth"):
        named = row.has("dataset")
        dataset = row.value("dataset") if named else "rollouts"
        yield Drawn(
            series=str(dataset[0]) if isinstance(dataset, list) and dataset else str(dataset),
            is_named=named,
            is_training=True,
            step=row.whole("step"),
            problem=row.text("prompt_idx"),
            where=row.where,
            score_field=score or "reward",
            scores=[row.number(score or "reward")],
            full_score=full_score,
            golds=_golds(row, "ground_truth") if row.has("ground_truth") else (),
            sample_index=row.whole("sample_idx"),
            is_truncated=[row.text("finish_reason") == "length"]
            if row.has("finish_reason")
            else (),
        )


def _completion(row: SourceRow, step: int, column: str) -> Drawn:
    question = row.question("prompt")
    return Drawn(
        series=column,
        is_named=False,
        is_training=True,
        step=step,
        problem=_key(question),
        where=row.where,
        score_field=column,
        scores=[row.score(column)],
        question=question,
        texts=[row.conversation("completion")],
    )


def _reward_column(row: SourceRow, rewards: Sequence[str]) -> str:
    if not rewards:
        row.refuse("reward", "is missing", why="there is a column for each reward function")
    accuracy = [name for name in rewards if re.search(r"acc|correct|math|verif", name, re.I)]
    if len(rewards) > 1 and len(accuracy) != 1:
        row.refuse(
            "reward",
            f"is one of {len(rewards)}: {', '.join(rewards)}",
            why="one of them has to say whether a sample is correct",
            fix="Name it: --score COLUMN",
        )
    return accuracy[0] if len(accuracy) == 1 else rewards[0]


def _only(row: SourceRow, name: str) -> Any:
    """Return the one item of a list: NeMo-RL writes batches of one."""
    values = row.sequence(name)
    if len(values) != 1:
        row.refuse(name, f"holds {len(values)} items, not 1")
    return values[0]


def _golds(row: SourceRow, name: str) -> tuple[str, ...]:
    value = row.value(name)
    values = value if isinstance(value, list) else [value]
    if all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        return tuple(str(v) for v in values if str(v).strip())
    return ()


def _nested_gold(extras: SourceRow) -> tuple[str, ...]:
    """Return the reference answers in SkyRL's `reward_spec` (`reward_model` before 0.2)."""
    for name in ("reward_spec", "reward_model"):
        if isinstance(extras.values.get(name), dict):
            spec = extras.inner(name)
            return _golds(spec, "ground_truth") if spec.has("ground_truth") else ()
    return ()


def _ground_truth(row: SourceRow) -> tuple[str, ...]:
    """Return the reference answer in NeMo-RL's `extra_env_info`, an object or its Python repr."""
    from rlready.evaluators.benchmarks.row_fields import field_values

    found = field_values(row.values, ("extra_env_info.ground_truth",))
    return (str(found[0][1]),) if found and isinstance(found[0][1], str | int | float) else ()


def _number_in(row: SourceRow, name: str) -> int:
    if match := _LAST_NUMBER.search(name):
        return int(match[1])
    row.refuse("step", "is missing", why=f"and the file's name {name!r} holds no number")


def _number_in_name(file: SourceFile) -> int | None:
    match = _LAST_NUMBER.search(file.path.stem)
    return int(match[1]) if match else None


class _Keys:
    """Keys of problems that have no id: their text and reference answers.

    Two problems may have the same text, as those with a picture do, so that the answers count too.
    But then all samples of a text have an answer, or none has one.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[bool, bool]] = {}

    def key(
        self, row: SourceRow, field: str, question: str, golds: Sequence[str], index: str = ""
    ) -> str:
        """Return the key of a row's problem; raise SamplesError if its samples differ in kind."""
        kind = (bool(golds), bool(index))
        if self._kinds.setdefault(_key(question), kind) != kind:
            row.refuse(field, "lacks what another sample of the same prompt has, or adds to it")
        return f"{index} {_key(question, golds)}".strip()


def _key(question: str, golds: Sequence[str] = ()) -> str:
    return digest([question, *golds])


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, str))
