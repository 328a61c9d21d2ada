"""The demo's folder: one checkpoint with its benchmarks, held-out set, prompt and recipe.

The checkpoint is trained from random weights on a noisy teacher's solutions, on one CPU core in
about a minute. The folder holds

    checkpoint/               an ordinary transformers checkpoint
    benchmarks/chain_easy.jsonl, chain_hard.jsonl     id, problem, answer
    heldout.jsonl             correct solutions as messages, from the held-out split
    prompt.txt                the prompt template
    recipe.toml               how the checkpoint was made
    demo.json                 settings, losses and cost

It appears all at once, when everything in it is complete. A second call with the same settings
finds it and does nothing.
"""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.testbed.model import ModelSize, build_model, save_checkpoint
from rlready.testbed.tasks import DIFFICULTIES, Chain, Split, Teacher, draw_chains
from rlready.testbed.tokenizer import build_tokenizer
from rlready.testbed.train import SCHEDULE, Dialogue, TrainSettings, encode, train

WORLD_VERSION = 1
"""Rises when the same settings give another checkpoint or other problems."""

PROMPT_TEMPLATE = "{problem}"
MARK = "demo.json"

_PROBLEM_SEED = 0
_FINAL_STEPS = 20  # a single batch says little about the final loss


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What decides the content of the demo's folder.

    Args:
        seed: of the weights, the training examples and the batches. The benchmarks, the held-out
            set and the facts that the teacher is shaky on are the same for every seed.
        n_steps: optimizer steps of 32 examples.
        n_unique: different training examples, half easy and half hard.
        n_problems: problems of each benchmark.
        n_heldout: held-out examples.
        slip_rate: chance of a wrong step in a training example, averaged over the facts.
    """

    seed: int = 0
    n_steps: int = 1000
    n_unique: int = 16_000
    n_problems: int = 100
    n_heldout: int = 200
    slip_rate: float = 0.2

    def __post_init__(self) -> None:
        for name in ("n_steps", "n_unique", "n_problems", "n_heldout"):
            least = 1 if name == "n_steps" else len(DIFFICULTIES)
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} of the demo is {getattr(self, name)}", fix=f"Give {least} or more"
                )

    @property
    def digest(self) -> str:
        """Id of the settings and of the version of the world."""
        return digest([WORLD_VERSION, dataclasses.asdict(self)])

    @property
    def training(self) -> TrainSettings:
        """How the model is trained."""
        return TrainSettings(n_steps=self.n_steps, seed=self.seed)

    @property
    def teacher(self) -> Teacher:
        """Who writes the training examples."""
        return Teacher(slip_rate=self.slip_rate)

    @property
    def recipe(self) -> Recipe:
        """The SFT run as a record."""
        training, size = self.training, ModelSize()
        return Recipe(
            base_model=f"random-qwen3-{size.width}x{size.n_layers}-seed{self.seed}",
            sources={name: 1.0 / len(DIFFICULTIES) for name in DIFFICULTIES},
            n_unique=self.n_unique,
            epochs=training.n_steps * training.batch_size / self.n_unique,
            learning_rate=training.learning_rate,
            schedule=SCHEDULE,
            batch_size=training.batch_size,
            loss_weighting="none",
            seed=self.seed,
            extra={
                "n_steps": training.n_steps,
                "warmup_steps": training.warmup_steps,
                "weight_decay": training.weight_decay,
                "slip_rate": self.slip_rate,
                "teacher_evenness": self.teacher.evenness,
                "teacher_seed": self.teacher.seed,
            },
        )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The demo's folder, complete.

    Args:
        folder: where it is.
        is_new: whether this call made it; False if it was there.
        report: the content of `demo.json`.
    """

    folder: Path
    is_new: bool
    report: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The report and the paths, as JSON values."""
        paths = {
            "out": self.folder,
            "checkpoint": self.folder / "checkpoint",
            "heldout": self.folder / "heldout.jsonl",
            "prompt": self.folder / "prompt.txt",
            "recipe": self.folder / "recipe.toml",
        }
        return {
            **{name: str(path) for name, path in paths.items()},
            "benchmarks": [str(self.folder / "benchmarks" / _file(name)) for name in DIFFICULTIES],
            "is_new": self.is_new,
            **self.report,
        }


def make_demo(
    folder: Path, settings: DemoSettings, on_step: Callable[[int, float], None] | None = None
) -> Demo:
    """The demo's folder, made now if it is not there.

    Args:
        folder: does not exist, is empty, or holds a demo with the same settings.
        settings: what to make.
        on_step: called after each training step with the number of steps done and the loss.

    Raises:
        ConfigError: if the folder holds anything else. Nothing is changed.
    """
    folder = folder.resolve()  # "." has neither a name nor a parent to make the draft in
    found = find_demo(folder, settings)
    if found is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        report = _write_demo(draft, settings, on_step)
        try:
            draft.rename(folder)
        except OSError:
            # Another call was faster, with these settings or with others; the check tells.
            found = find_demo(folder, settings)
            if found is None:
                raise
            return found
    return Demo(folder=folder, is_new=True, report=report)


def find_demo(folder: Path, settings: DemoSettings) -> Demo | None:
    """The complete demo with these settings in a folder; None if there is nothing there.

    Raises:
        ConfigError: if the folder holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    mark = folder / MARK
    if not mark.is_file():
        raise ConfigError(
            f"{folder} exists and is no demo",
            why=f"it holds no {MARK}",
            fix="Name a folder that does not exist",
        )
    report = json.loads(mark.read_text(encoding="utf-8"))
    if report.get("settings_digest") != settings.digest:
        raise ConfigError(
            f"{folder} holds a demo with other settings",
            why=_differences(report, settings),
            fix="Remove the folder, or name another",
        )
    return Demo(folder=folder, is_new=False, report=report)


def _differences(report: Mapping[str, Any], settings: DemoSettings) -> str:
    wanted = {"world_version": WORLD_VERSION, **dataclasses.asdict(settings)}
    there = {"world_version": report.get("world_version"), **report.get("settings", {})}
    return ", ".join(
        f"{name} is {there.get(name)} there and {value} is wanted"
        for name, value in wanted.items()
        if there.get(name) != value
    )


def _write_demo(
    folder: Path, settings: DemoSettings, on_step: Callable[[int, float], None] | None
) -> dict[str, Any]:
    begin_cpu, begin = time.process_time(), time.perf_counter()
    (folder / "benchmarks").mkdir(parents=True)
    for name in DIFFICULTIES:
        rows = _problem_rows(name, settings.n_problems)
        _write_rows(folder / "benchmarks" / _file(name), rows)
    _write_rows(folder / "heldout.jsonl", _heldout_rows(settings.n_heldout))
    (folder / "prompt.txt").write_text(PROMPT_TEMPLATE, encoding="utf-8")
    (folder / "recipe.toml").write_text(to_toml(settings.recipe.to_dict()), encoding="utf-8")

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=settings.seed)
    examples = encode(tokenizer, training_dialogues(settings))
    losses = train(model, examples, settings.training, on_step)
    save_checkpoint(model, tokenizer, folder / "checkpoint")
    report = {
        "settings_digest": settings.digest,
        "settings": dataclasses.asdict(settings),
        "world_version": WORLD_VERSION,
        "n_parameters": model.num_parameters(),
        "first_loss": losses[0],
        "final_loss": statistics.fmean(losses[-_FINAL_STEPS:]),
        "cpu_seconds": round(time.process_time() - begin_cpu, 1),
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    (folder / MARK).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def training_dialogues(settings: DemoSettings) -> list[Dialogue]:
    """The training examples: problems of the training split with the teacher's solutions."""
    rng, teacher = random.Random(settings.seed), settings.teacher
    return [
        dialogue(chain, teacher.solve(chain, rng))
        for chain in _mixed_chains("train", settings.n_unique, settings.seed)
    ]


def dialogue(chain: Chain, response: str) -> Dialogue:
    """The messages in which a problem is asked and answered."""
    prompt = PROMPT_TEMPLATE.replace("{problem}", chain.text)
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def to_toml(values: Mapping[str, Any]) -> str:
    """A TOML document of numbers, texts and, one level deep, tables of them."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(values[key])}" for key in values if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(table[key])}" for key in table)]
    return "\n".join(lines) + "\n"


def _mixed_chains(split: Split, n: int, seed: int) -> list[Chain]:
    # Equal shares; the first difficulties take what does not divide.
    n_each, rest = divmod(n, len(DIFFICULTIES))
    return [
        chain
        for i, name in enumerate(DIFFICULTIES)
        for chain in draw_chains(name, split, n_each + (i < rest), seed)
    ]


def _problem_rows(difficulty: str, n: int) -> list[dict[str, Any]]:
    chains = draw_chains(difficulty, "test", n, _PROBLEM_SEED)
    return [
        {"id": f"chain-{difficulty}-{i:04d}", "problem": chain.text, "answer": chain.answer}
        for i, chain in enumerate(chains)
    ]


def _heldout_rows(n: int) -> list[dict[str, Any]]:
    chains = _mixed_chains("heldout", n, _PROBLEM_SEED)
    return [
        {"id": f"chain-heldout-{i:04d}", "messages": dialogue(chain, chain.solution)}
        for i, chain in enumerate(chains)
    ]


def _file(difficulty: str) -> str:
    return f"chain_{difficulty}.jsonl"


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
