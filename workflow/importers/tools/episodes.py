r"""Samples that prime-rl and verifiers write, one rollout a line.

    results.jsonl   {"example_id": 3, "prompt": [...], "completion": [...], "answer": "7",
                     "reward": 1.0, "error": null, "task": "gsm8k"}      verifiers up to 0.2
    traces.jsonl    {"env": {"name": "gsm8k"}, "group": {"id": "a"}, "ok": true,
                     "task": {"key": "...", "data": {"idx": 3, "prompt": "...", "answer": "7"}},
                     "run": {"work": {"type": "eval", "step": 20}},
                     "traces": [{"agent": {"name": "agent"}, "ok": true,
                                 "rewards": {"correct": {"score": 1.0, "weight": 1.0}},
                                 "nodes": [{"message": {"role": "assistant", ...}}]}]}

The second form is that of `Episode` in verifiers 0.4.0. A rollout that failed is UNSCORED. A step
that the record does not have is taken from the folder `step_<N>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rlready.registry.digest import digest
from rlready.workflow.importers.drawn import Drawn
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.source_rows import SourceRow, alike

_STEP = re.compile(r"step_(\d+)")


def rollouts(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample a line of `results.jsonl`."""
    names = ("task", "env_id", "env_name", "answer")
    for row in alike(file.rows(), *names):
        name = score or "reward"
        has_error = row.has("error")
        env = next((row.text(n) for n in names[:3] if isinstance(row.values.get(n), str)), None)
        yield Drawn(
            series=env or file.path.parent.name,
            is_named=env is not None,
            is_training="train" in file.path.parts,
            step=_step_in(file),
            problem=row.text("example_id"),
            where=row.where,
            score_field=name,
            scores=[None if has_error else row.score(name)],
            question=row.question("prompt") if row.has("prompt") else None,
            golds=(row.text("answer"),) if isinstance(row.values.get("answer"), str) else (),
            texts=[row.conversation("completion")] if row.has("completion") else (),
            is_truncated=[bool(row.values["is_truncated"])] if row.has("is_truncated") else (),
        )


def episodes(file: SourceFile, score: str | None) -> Iterator[Drawn]:
    """Yield one sample for each agent's trace in each line of `traces.jsonl`."""
    for row in alike(file.rows(), "env", "run", "task", "example_id", "group_id"):
        env, is_training, step = _about(row)
        key, question, golds = _task(row)
        traces = list(row.items("traces"))
        if not traces and not _has_failed(row):
            row.refuse("traces", "is empty", why="a sample without a trace has no score")
        # An episode that failed before it had a trace is a sample without a score.
        for trace in traces or [row]:
            value, field = _reward(trace, score)
            yield Drawn(
                series=env or file.path.parent.name,
                is_named=env is not None,
                is_training="train" in file.path.parts if is_training is None else is_training,
                step=_step_in(file) if step is None else step,
                problem=key,
                where=f"{row.where}, {trace.prefix.rstrip('.') or 'traces'}",
                score_field=field,
                scores=[value],
                question=question,
                golds=golds,
                texts=_reply(trace),
            )


def _about(row: SourceRow) -> tuple[str | None, bool | None, int | None]:
    """Return the environment's name, whether the rollout was for training, and its step."""
    value = row.values.get("env")
    env = value if isinstance(value, str) else None
    if value is not None and env is None:
        about = row.inner("env")
        env = next((about.text(n) for n in ("name", "id") if about.values.get(n)), None)
    run = row.inner("run") if row.has("run") else None
    if run is None or not run.has("work"):
        return env, None, None
    work = run.inner("work")
    return env, work.values.get("type") == "train", work.whole("step")


def _task(row: SourceRow) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the key, the prompt and the reference answers of the problem."""
    if not row.has("task"):
        name = "example_id" if row.has("example_id") else "group_id"
        return row.text(name), None, ()
    task = row.inner("task")
    data = task.inner("data")
    question = data.question("prompt") if data.has("prompt") else None
    answer: Any = data.values.get("answer", data.values.get("ground_truth"))
    golds = (str(answer),) if isinstance(answer, str | int | float) else ()
    for source, name in ((task, "key"), (data, "id"), (data, "idx"), (task, "hash")):
        if source.has(name):
            return source.text(name), question, golds
    if question is None:
        data.refuse("idx", "is missing", why="nothing identifies the problem")
    return digest([question, *golds]), question, golds


def _has_failed(record: SourceRow) -> bool:
    return record.values.get("ok") is False or bool(record.values.get("errors"))


def _reward(trace: SourceRow, score: str | None) -> tuple[float | None, str]:
    if _has_failed(trace):
        return None, f"{trace.prefix}ok"
    if "rewards" not in trace.values:
        name = score or "reward"
        return trace.score(name), f"{trace.prefix}{name}"
    rewards = trace.inner("rewards")
    names = list(rewards.values) if score is None else [score]
    total: float | None = None
    for name in names:
        if rewards.has(name):
            reward = rewards.inner(name)
            weight = reward.number("weight") if reward.has("weight") and score is None else 1.0
            total = (total or 0.0) + weight * reward.number("score")
    return total, f"{rewards.prefix}{'+'.join(names)}"


def _reply(trace: SourceRow) -> list[str]:
    """Return the last message of the model, as verifiers' `last_reply` does."""
    if trace.has("root_reply"):
        return [trace.text("root_reply")]
    if trace.has("completion"):
        return [trace.conversation("completion")]
    if not isinstance(trace.values.get("nodes"), list):
        return []
    replies = [
        node.inner("message").values.get("content")
        for node in trace.items("nodes")
        if node.inner("message").values.get("role") == "assistant"
    ]
    return [replies[-1]] if replies and isinstance(replies[-1], str) else []


def _step_in(file: SourceFile) -> int | None:
    steps = [match[1] for part in file.path.parts if (match := _STEP.fullmatch(part))]
    return int(steps[-1]) if steps else None
