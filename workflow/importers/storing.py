"""From what the files hold to proxies and outcomes in the registry.

The samples of step 0, or of an evaluation without steps, measure the checkpoint: they become
proxies. The samples of all steps become a curve of pass@1 with standard errors, and a statistic of
it (`predictors/rl_curve.py`) becomes an outcome. A logged mean becomes an outcome too, unless the
samples of that benchmark are there. The ids of records depend on their content alone, so that the
same import stores nothing twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.evaluators.metrics.pass_at_k import mean_pass_at_k, with_scored
from rlready.evaluators.verification.verifier import checker_version
from rlready.predictors.curve_columns import check_score
from rlready.predictors.rl_curve import Curve, CurvePoint, statistic
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Evaluation, Proxy
from rlready.registry.store import Store, StoredCheckpoint, StoredEvaluation, StoredOutcome
from rlready.workflow.importers.benchmarks import Imported, imported, proxies, registry_name
from rlready.workflow.importers.config import ImportConfig
from rlready.workflow.importers.curves import LoggedCurve
from rlready.workflow.importers.reading import Reading
from rlready.workflow.predict.outcome import check_start, sampled_on

_NO_STEPS = (None, 0)


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The result of `rlready import`.

    Args:
        reading: what the files hold.
        benchmarks: the benchmarks with samples.
        checkpoint: the checkpoint with all its records; None if nothing was to be stored.
        evaluation: the evaluation and its place in the registry.
        outcomes: the outcomes and their places.
        warnings: remarks for the user.
    """

    reading: Reading
    benchmarks: Sequence[Imported]
    checkpoint: StoredCheckpoint | None = None
    evaluation: tuple[Evaluation, StoredEvaluation] | None = None
    outcomes: Sequence[tuple[Outcome, StoredOutcome]] = ()
    warnings: Sequence[str] = field(default_factory=tuple)


def store_reading(config: ImportConfig, reading: Reading, store: Store | None) -> ImportReport:
    """Store what the files hold about a checkpoint. All records are made before the first is put.

    Args:
        config: the checkpoint, the names of benchmarks and the RL run.
        reading: what the files hold.
        store: the registry; None stores nothing.

    Raises:
        RlreadyError: if the checkpoint is not registered, no benchmark is known, or a number is
            invalid; nothing is stored then.
    """
    benchmarks = imported(reading, config.names())
    warnings = [*reading.notes, *_differences(benchmarks)]
    if config.checkpoint is None or store is None:
        return ImportReport(reading=reading, benchmarks=benchmarks, warnings=warnings)
    parent = store.find(config.checkpoint)
    evaluation = _evaluation(config, reading, benchmarks, parent)
    outcomes = _outcomes(config, reading, benchmarks, parent, evaluation, warnings)
    if evaluation is None and not outcomes:
        raise _nothing_known(reading, benchmarks, parent)
    stored_evaluation = None
    if evaluation is not None:
        with tempfile.TemporaryDirectory() as folder:
            files = _count_files(Path(folder), benchmarks)
            stored_evaluation = (evaluation, store.put_evaluation(evaluation, files))
    stored = [(outcome, store.put_outcome(outcome)) for outcome in outcomes]
    return ImportReport(
        reading=reading,
        benchmarks=benchmarks,
        checkpoint=store.find(parent.checkpoint.id),
        evaluation=stored_evaluation,
        outcomes=stored,
        warnings=warnings,
    )


def _evaluation(
    config: ImportConfig,
    reading: Reading,
    benchmarks: Sequence[Imported],
    parent: StoredCheckpoint,
) -> Evaluation | None:
    """Return the proxies of the checkpoint itself; None if the files hold no samples of it."""
    found: dict[tuple[str, str, str, str | None], Proxy] = {}
    for item in benchmarks:
        start = _start(item)
        if start is None or not _is_benchmark(item, config):
            continue
        for proxy in proxies(item, start, _protocol(reading, item, config), config.verdicts):
            if proxy.key in found:
                raise ConfigError(
                    f"the files hold {item.benchmark} more than once",
                    fix="Give another name to one: --map NAME=BENCHMARK, or name one file",
                )
            found[proxy.key] = proxy
    if not found:
        return None
    return Evaluation(
        checkpoint=parent.checkpoint,
        proxies=tuple(found.values()),
        config={
            "imported_from": reading.tool,
            "files": [str(path) for path, _ in reading.files[:100]],
            "n_files": len(reading.files),
            "verdicts": config.verdicts,
            "correct_above": reading.correct_above,
            "checker": checker_version(),
            "settings": {item.series: dict(item.settings) for item in benchmarks},
        },
        references={"import": config.path.resolve().as_uri()},
    )


def _outcomes(
    config: ImportConfig,
    reading: Reading,
    benchmarks: Sequence[Imported],
    parent: StoredCheckpoint,
    evaluation: Evaluation | None,
    warnings: list[str],
) -> list[Outcome]:
    common: dict[str, Any] = {
        "checkpoint_id": parent.checkpoint.id,
        "algorithm": config.algorithm,
        "rl_recipe": {} if config.rl_recipe is None else read_toml(config.rl_recipe),
        "budget_unit": "steps",
        "seed": config.seed,
    }
    outcomes: list[Outcome] = []
    names = config.names()
    covered = set()
    for item in benchmarks:
        if not _is_benchmark(item, config) or item.benchmark is None:
            why = "RL trained on these prompts" if item.is_training else "it names no benchmark"
            warnings.append(
                f"{item.series} is not stored: {why}. If it is one, name it: "
                f"--map '{item.series}=BENCHMARK'"
            )
            continue
        curve = _curve_of_samples(item, config, warnings)
        if curve is None:
            continue
        covered.add(item.benchmark)
        how = {
            "benchmark_digest": item.digest,
            "protocol_digest": _protocol(reading, item, config),
            "evaluator_version": "1",
        }
        outcomes += _statistics(config, curve, {**common, **how, "benchmark": item.benchmark})
    measured = (
        {*sampled_on(parent), *(p.benchmark for p in evaluation.proxies)}
        if evaluation
        else {*sampled_on(parent)}
    )
    for logged in _one_a_benchmark(reading.curves, names, covered):
        benchmark = names.get(logged.series) or registry_name(logged.series)
        if logged.series not in names and (not logged.is_named or benchmark not in measured):
            warnings.append(
                f"{logged.metric} is not stored: {parent.checkpoint.name} was not measured on "
                f"{logged.series!r}, but on {', '.join(sorted(measured)) or 'nothing'}. Name it: "
                f"--map '{logged.series}=BENCHMARK'"
            )
            continue
        check_score(benchmark, f"--map {logged.series}={benchmark}")
        curve = Curve(
            benchmark=logged.metric,
            points=tuple(CurvePoint(budget=s, value=v) for s, v in logged.values()),
        )
        check_start(parent, benchmark, curve)
        outcomes += _statistics(config, curve, {**common, "benchmark": benchmark})
    return outcomes


def _statistics(config: ImportConfig, curve: Curve, common: Mapping[str, Any]) -> list[Outcome]:
    """Return an outcome for each statistic; none for a curve that only has its start."""
    budget = curve.points[-1].budget if config.budget is None else config.budget
    if budget <= 0.0:
        return []
    outcomes = []
    for name in dict.fromkeys(config.statistics):
        value = statistic(curve, name, budget)
        outcomes.append(
            Outcome(
                **common,
                budget=budget,
                statistic=name,
                value=value.value,
                se=value.se,
                n_evaluations=value.n_evaluations,
            )
        )
    return outcomes


def _curve_of_samples(item: Imported, config: ImportConfig, warnings: list[str]) -> Curve | None:
    """Return pass@1 by step; None without a step above 0."""
    steps = [step for step in item.steps if step.step is not None]
    if not any(step.step for step in steps):
        return None
    if not item.same_problems:
        warnings.append(
            f"{item.series}: its steps have different problems, so that their pass@1 cannot be "
            "compared; no outcome is made of it"
        )
        return None
    points = []
    for step in steps:
        counts = with_scored(step.primary(config.verdicts), 1)
        if counts and step.step is not None:
            estimate = mean_pass_at_k(counts, 1, item.series)
            points.append(CurvePoint(budget=step.step, value=estimate.value, se=estimate.se))
    return Curve(benchmark=f"pass@1 of {item.series}", points=tuple(points)) if points else None


def _one_a_benchmark(
    curves: Sequence[LoggedCurve], names: Mapping[str, str], covered: set[str]
) -> list[LoggedCurve]:
    """Return the first logged mean of each benchmark that the samples do not cover.

    Raises:
        ConfigError: if two runs have one.
    """
    chosen: dict[str, LoggedCurve] = {}
    for curve in curves:
        if curve.meaning != "mean" or (curve.is_training and curve.series not in names):
            continue
        benchmark = names.get(curve.series) or registry_name(curve.series)
        if benchmark in covered:
            continue
        earlier = chosen.setdefault(benchmark, curve)
        if earlier.run != curve.run:
            raise ConfigError(
                f"the files hold {curve.metric} of the runs {earlier.run} and {curve.run}",
                why="an outcome belongs to one RL run",
                fix=f"Choose one: --run '{earlier.run}'",
            )
    return list(chosen.values())


def _nothing_known(
    reading: Reading, benchmarks: Sequence[Imported], parent: StoredCheckpoint
) -> ConfigError:
    names = list(dict.fromkeys([b.series for b in benchmarks] + [c.series for c in reading.curves]))
    measured = ", ".join(sampled_on(parent)) or "nothing"
    training = {b.series for b in benchmarks if b.is_training}
    training |= {c.series for c in reading.curves if c.is_training} - {
        c.series for c in reading.curves if not c.is_training
    }
    why = f"{parent.checkpoint.name} was measured on {measured}; the files hold {', '.join(names)}"
    if training:
        why += f"; {', '.join(sorted(training))} may be on the prompts that RL trained on"
    return ConfigError(
        "nothing is stored, because no name in the files is a benchmark of the registry",
        why=why,
        fix=f"Say which benchmark it is: --map '{names[0]}=BENCHMARK'",
    )


def _protocol(reading: Reading, item: Imported, config: ImportConfig) -> str:
    return digest(
        {
            "imported_from": reading.tool,
            "settings": item.settings,
            "verdicts": config.verdicts,
            "correct_above": reading.correct_above,
        }
    )


def _is_benchmark(item: Imported, config: ImportConfig) -> bool:
    """Return whether a series has a name, and held-out prompts unless the user names it."""
    return item.benchmark is not None and (not item.is_training or item.series in config.names())


def _start(item: Imported) -> Any:
    by_step = {step.step: step for step in item.steps}
    return next((by_step[step] for step in reversed(_NO_STEPS) if step in by_step), None)


def _differences(benchmarks: Sequence[Imported]) -> list[str]:
    """Return a note on each benchmark on which the tool and rlready judge samples differently."""
    notes = []
    for item in benchmarks:
        n_differ = sum(step.n_differ for step in item.steps)
        n = sum(c.n for step in item.steps for c in step.checked)
        if n_differ:
            notes.append(
                f"{item.series}: rlready and the tool judge {n_differ} of {n} samples differently; "
                "both counts are kept (--verdicts chooses the ones of pass@k)"
            )
    return notes


def _count_files(folder: Path, benchmarks: Sequence[Imported]) -> dict[str, Path]:
    """Write the counts of each benchmark, by both verdicts, as files beside the evaluation."""
    files = {}
    for item in benchmarks:
        if item.benchmark is None:
            continue
        path = folder / f"counts-{item.benchmark}.json"
        path.write_text(json.dumps([step_dict(step) for step in item.steps]), encoding="utf-8")
        files[f"import/{path.name}"] = path
    return files


def step_dict(step: Any) -> dict[str, Any]:
    """Return the counts of a step as JSON values."""
    checked = {each.problem_id: each for each in step.checked}
    rows = []
    for each in step.tool or step.checked:
        row = {"problem": each.problem_id, "n": each.n, "c": each.c}
        if each.n_unscored:
            row["n_unscored"] = each.n_unscored
        if step.tool and each.problem_id in checked:
            row["c_rlready"] = checked[each.problem_id].c
        rows.append(row)
    return {"step": step.step, "counts": rows, "n_differ": step.n_differ}
