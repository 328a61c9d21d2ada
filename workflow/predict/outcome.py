"""Record the outcome of RL from a checkpoint: a number, a curve or an RL checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from rlready.predictors.curve_columns import check_score, choose
from rlready.predictors.curve_file import read_table
from rlready.predictors.curve_scale import MAX_SE, as_share
from rlready.predictors.kinds import PRACTICE
from rlready.predictors.rl_curve import Curve, curves, statistic
from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import ConfigError, CurveError, StoreError
from rlready.registry.foreign_files import read_toml
from rlready.registry.outcomes import BudgetUnit, Conflict, Outcome, Statistic, conflicts
from rlready.registry.records import Proxy
from rlready.registry.store import (
    Store,
    StoredCheckpoint,
    StoredOutcome,
    check_rl_checkpoint,
    how_to_register,
)
from rlready.workflow.flags import Flag, split_pairs

_RATIO, _DIFFERENCE = 30.0, 0.1
"""Limits of difference and ratio; two scores of the same weights beyond both differ in unit."""

_PROTOCOL_FLAGS = "--temperature, --top-p, --max-tokens, --prompt-template and --seed"


@dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """Settings of `rlready outcome`, one field per flag; `Args:` holds their help.

    Example:
        rl_run = {"algorithm": "grpo", "budget": 200.0, "budget_unit": "steps"}
        config = OutcomeConfig("sft-3", value=0.61, benchmark="gsm8k", **rl_run)

    Args:
        checkpoint: The registered checkpoint that RL started from.
        value: The number itself.
        curve: Evaluations along the RL run: CSV with a column of the budget and one for each
            benchmark (or `value`), with <benchmark>_se beside it; or an export of wandb or
            TensorBoard, or trainer_state.json.
        columns: COLUMN of the curve holds the scores of benchmark NAME, or the budget if NAME is
            its unit. Repeatable.
        percent: Scores and standard errors are percentages, 0 to 100, not shares, 0 to 1.
        rl_checkpoint: Folder or id of the checkpoint after RL, evaluated with --kind rl --parent
            CHECKPOINT and the flags of its parent: its pass@1 is the outcome.
        benchmark: What was measured.  [default: every benchmark that CHECKPOINT was measured on,
            if the curve has a column of it or the RL checkpoint was measured on it too]
        algorithm: Algorithm of the RL run, for example grpo.
        budget: Budget of the RL run, in --budget-unit.
        budget_unit: Unit of --budget.
        statistics: Which number of the RL run: value_at_budget, peak, smoothed_peak_5,
            last_5_mean. Repeatable with --curve.  [default: value_at_budget]
        se: Standard error of --value over problems.
        seed: Seed of the RL run.
        rl_recipe: Everything else about the RL run: data, group size, temperature, ...
        replaces: Outcome that this one corrects, as `rlready show` lists it.
    """

    checkpoint: str = field(kw_only=False)
    value: float | None = None
    curve: Annotated[Path | None, Flag(metavar="FILE.csv")] = None
    columns: Annotated[
        tuple[str, ...], Flag("--map", metavar="NAME=COLUMN", split=split_pairs)
    ] = ()
    percent: bool = False
    rl_checkpoint: Annotated[str | None, Flag(metavar="PATH")] = None
    benchmark: Annotated[str | None, Flag(metavar="NAME")] = None
    algorithm: str
    budget: float
    budget_unit: BudgetUnit
    statistics: Annotated[tuple[Statistic, ...], Flag("--statistic", metavar="NAME")] = (
        "value_at_budget",
    )
    se: float | None = None
    seed: Annotated[int | None, Flag(metavar="N")] = None
    rl_recipe: Annotated[Path | None, Flag(metavar="FILE.toml")] = None
    replaces: Annotated[str | None, Flag(metavar="ID")] = None

    def __post_init__(self) -> None:
        n_sources = sum(v is not None for v in (self.value, self.curve, self.rl_checkpoint))
        if n_sources != 1:
            raise ConfigError(
                f"{n_sources} of --value, --curve and --rl-checkpoint are given",
                fix="Give one of them, as the source of the number",
            )
        if not 0.0 < self.budget < float("inf"):
            raise ConfigError(
                f"--budget is {self.budget}",
                why="without RL a number is a proxy",
                fix="Give a finite number above 0",
            )
        if self.value is not None and not self.benchmark:
            raise ConfigError("--value is given without --benchmark", fix="Say what was measured")
        if self.se is not None and self.value is None:
            raise ConfigError(
                "--se is given without --value",
                fix="Put the errors of a curve into its column `se`; an RL checkpoint has its own",
            )
        for name in self.statistics:
            if name not in get_args(Statistic):
                names = ", ".join(get_args(Statistic))
                raise ConfigError(f"there is no statistic {name!r}", fix=f"Known: {names}")
        self._check_curve_flags()
        if self.value is not None and len(self.statistics) > 1:
            raise ConfigError("--value is one number", fix="Give one --statistic with it")
        if self.rl_checkpoint is not None and self.statistics != ("value_at_budget",):
            raise ConfigError(
                f"--statistic {', '.join(self.statistics)} from one RL checkpoint",
                why="one checkpoint is one point of the curve",
                fix="Leave --statistic out, or give the whole --curve",
            )

    def _check_curve_flags(self) -> None:
        if self.columns and self.curve is None:
            raise ConfigError("--map is given without --curve", fix="It names columns of a curve")
        if self.percent and self.rl_checkpoint is not None:
            raise ConfigError(
                "--percent is given with --rl-checkpoint", fix="Leave it out: pass@1 is a share"
            )
        for text in self.columns:
            if not all(part.strip() for part in text.partition("=")):
                raise ConfigError(
                    f"--map {text!r} does not name a column",
                    fix="Give --map NAME=COLUMN, for example --map gsm8k=eval/gsm8k/score",
                )

    def column_names(self) -> dict[str, str]:
        """Return the columns of the curve that the user names, by benchmark or budget unit."""
        pairs = [text.partition("=") for text in self.columns]
        return {name.strip(): column.strip() for name, _, column in pairs}


@dataclass(frozen=True, kw_only=True)
class OutcomeReport:
    """The result of `rlready outcome`.

    Args:
        checkpoint: the checkpoint with all its outcomes in the registry.
        outcomes: the outcomes of this call, with their runs.
        warnings: warnings for the user.
    """

    checkpoint: StoredCheckpoint
    outcomes: Sequence[tuple[Outcome, StoredOutcome]]
    warnings: Sequence[str] = ()

    @property
    def conflicts(self) -> list[Conflict]:
        """The contradictions among the checkpoint's outcomes."""
        return conflicts(self.checkpoint.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as one JSON object: the contract of `rlready outcome --json`."""
        return {
            "checkpoint_id": self.checkpoint.checkpoint.id,
            "name": self.checkpoint.checkpoint.name,
            "model_id": self.checkpoint.model_id,
            "outcomes": [
                {**outcome_dict(outcome), "run_id": stored.run_id, "is_new": stored.is_new}
                for outcome, stored in self.outcomes
            ],
            "conflicts": [[o.id for o in conflict.outcomes] for conflict in self.conflicts],
            "warnings": list(self.warnings),
        }


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON values, with its id and column."""
    return {"id": outcome.id, "key": outcome.key, **dataclasses.asdict(outcome)}


def record(config: OutcomeConfig, store: Store) -> OutcomeReport:
    """Store the outcomes that the flags describe. All are checked before the first is stored.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    parent = store.find(config.checkpoint)
    warnings: list[str] = []
    common: dict[str, Any] = {
        "checkpoint_id": parent.checkpoint.id,
        "algorithm": config.algorithm,
        "rl_recipe": {} if config.rl_recipe is None else read_toml(config.rl_recipe),
        "budget": config.budget,
        "budget_unit": config.budget_unit,
        "seed": config.seed,
    }
    if config.replaces is not None:
        common["replaces"] = _replaced(parent, config.replaces)
    if config.curve is not None:
        outcomes = _of_curve(config, config.curve, parent, common, warnings)
    elif config.rl_checkpoint is not None:
        outcomes = _of_rl_checkpoint(config, store, parent, common, warnings)
    else:
        outcomes = [Outcome(**common, **_number(config), statistic=config.statistics[0])]
        if config.percent:
            warnings.append(f"{config.value:g} % is recorded as {outcomes[0].value:g}")
        warnings += _unmeasured(parent, [outcomes[0].benchmark])
    if config.replaces is not None and len(outcomes) > 1:
        raise ConfigError(
            f"--replaces with {len(outcomes)} outcomes",
            fix="Give --benchmark and one --statistic, so that one outcome replaces the other",
        )
    stored = [(outcome, store.put_outcome(outcome)) for outcome in outcomes]
    checkpoint = store.find(parent.checkpoint.id)
    return OutcomeReport(checkpoint=checkpoint, outcomes=stored, warnings=warnings)


def _number(config: OutcomeConfig) -> dict[str, Any]:
    """Return --value as a share between 0 and 1, with its standard error."""
    assert config.value is not None
    assert config.benchmark is not None
    check_score(config.benchmark, f"--benchmark {config.benchmark}")
    value = as_share(config.value, "--value", percent=config.percent)
    se = config.se
    if se is not None:
        se = se / 100.0 if config.percent else se
        if not 0.0 <= se <= MAX_SE:
            raise ConfigError(
                f"--se is {config.se:g}, not a standard error of --value {config.value:g}",
                fix="Give it in the unit of --value, 0 or more",
            )
    return {"value": value, "se": se, "benchmark": config.benchmark}


def _of_curve(
    config: OutcomeConfig,
    path: Path,
    parent: StoredCheckpoint,
    common: Mapping[str, Any],
    warnings: list[str],
) -> list[Outcome]:
    table = read_table(path)
    columns = choose(
        table, config.budget_unit, config.benchmark, sampled_on(parent), config.column_names()
    )
    outcomes = []
    for benchmark, curve in curves(table, columns, percent=config.percent).items():
        check_start(parent, benchmark, curve)
        for name in dict.fromkeys(config.statistics):
            estimate = statistic(curve, name, config.budget)
            outcomes.append(
                Outcome(
                    **common,
                    benchmark=benchmark,
                    statistic=name,
                    value=estimate.value,
                    se=estimate.se,
                    n_evaluations=estimate.n_evaluations,
                )
            )
    warnings += columns.notes(path)
    warnings += _unmeasured(parent, list(columns.values))
    return outcomes


def check_start(parent: StoredCheckpoint, benchmark: str, curve: Curve) -> None:
    """Refuse a curve if its score before RL has another unit than the checkpoint's pass@1."""
    start = curve.points[0]
    for proxy in _by_benchmark(parent).get(benchmark, []):
        low, high = sorted((start.value, proxy.value))
        if start.budget == 0.0 and high > _RATIO * low > 0.0 and high - low > _DIFFERENCE:
            raise CurveError(
                f"{curve.benchmark} begins with {start.value:g} at budget 0, and the checkpoint's "
                f"pass@1 on {benchmark} is {proxy.value:g}",
                why="both are of the same weights, so one of them is in another unit",
                fix="Correct the column or --percent; if both are right, leave out the row of "
                "budget 0",
            )


def _unmeasured(parent: StoredCheckpoint, benchmarks: Sequence[str]) -> list[str]:
    """Return a warning for each benchmark without samples of the checkpoint (a wrong name?)."""
    measured = sampled_on(parent)
    where = f"it was on {', '.join(measured)}" if measured else "it was never sampled"
    return [
        f"checkpoint {parent.checkpoint.id[:12]} ({parent.checkpoint.name}) was not measured on "
        f"{name} before RL; {where}"
        for name in benchmarks
        if name not in measured
    ]


def _of_rl_checkpoint(
    config: OutcomeConfig,
    store: Store,
    parent: StoredCheckpoint,
    common: Mapping[str, Any],
    warnings: list[str],
) -> list[Outcome]:
    """Return pass@1 of the RL checkpoint on benchmarks that measured its parent in the same way."""
    assert config.rl_checkpoint is not None
    child = _find_rl_checkpoint(store, config.rl_checkpoint, parent)
    return [
        Outcome(
            **common,
            statistic="value_at_budget",
            benchmark=proxy.benchmark,
            value=proxy.value,
            se=proxy.se,
            benchmark_digest=proxy.benchmark_digest,
            protocol_digest=proxy.protocol_digest,
            evaluator_version=proxy.evaluator_version,
            rl_checkpoint_id=child.checkpoint.id,
        )
        for proxy in _measured_alike(parent, child, config.benchmark, warnings)
    ]


def _find_rl_checkpoint(store: Store, reference: str, parent: StoredCheckpoint) -> StoredCheckpoint:
    from rlready.evaluators.checkpoints.folder import folder_fingerprint

    folder = Path(reference)
    identifier = folder_fingerprint(folder, default_cache_dir()) if folder.is_dir() else reference
    try:
        child = store.find(identifier)
    except StoreError as error:
        raise StoreError(
            f"RL checkpoint {reference} is not in the registry",
            why=error.what,
            fix=how_to_register(parent.checkpoint),
        ) from error
    if child.checkpoint.id == parent.checkpoint.id:
        raise ConfigError(
            f"RL checkpoint {reference} has the weights of {parent.checkpoint.name} itself",
            why="RL changed nothing, or this is the folder that it started from",
            fix="Name another folder; or, if RL never got a reward, record the checkpoint's own "
            "pass@1 with --value",
        )
    check_rl_checkpoint(parent.checkpoint, child.checkpoint)
    return child


def _measured_alike(
    parent: StoredCheckpoint,
    child: StoredCheckpoint,
    benchmark: str | None,
    warnings: list[str],
) -> list[Proxy]:
    """Return the child's pass@1 on each benchmark and protocol of its parent's pass@1.

    Raises:
        ConfigError: if there is no such pass@1, or a benchmark was only measured in another way.
    """
    before, after = _by_benchmark(parent), _by_benchmark(child)
    benchmarks = list(before) if benchmark is None else [benchmark]
    if not before or benchmarks[0] not in before:
        raise ConfigError(
            f"checkpoint {parent.checkpoint.id[:12]} ({parent.checkpoint.name}) has no pass@1"
            + (f" on {benchmark}" if before else ""),
            why=f"it has pass@1 on {', '.join(before)}" if before else "it was never sampled",
            fix="Evaluate it on the benchmark first: an outcome is compared with its parent",
        )
    shared = []
    for name in benchmarks:
        ways = {_way(proxy) for proxy in before[name]}
        alike = [proxy for proxy in after.get(name, []) if _way(proxy) in ways]
        if not alike and name in after:
            raise _measured_otherwise(name, before[name], after[name], parent, child)
        if not alike:
            warnings.append(f"left out {name}: {child.checkpoint.name} was not measured on it")
        shared += alike
    if not shared:
        raise ConfigError(
            f"RL checkpoint {child.checkpoint.id[:12]} ({child.checkpoint.name}) has no pass@1 "
            f"on {', '.join(benchmarks)}",
            fix=f"rlready evaluate {child.checkpoint.uri.removeprefix('file://')} with the "
            "--benchmark and sampling flags of its parent's evaluation",
        )
    return shared


def _measured_otherwise(
    name: str,
    before: Sequence[Proxy],
    after: Sequence[Proxy],
    parent: StoredCheckpoint,
    child: StoredCheckpoint,
) -> ConfigError:
    what, flags = "another protocol", f"with the parent's {_PROTOCOL_FLAGS}"
    if {p.benchmark_digest for p in before}.isdisjoint(p.benchmark_digest for p in after):
        what = "other problems"
        flags = f"with the file of {name} and the --limit that were used for the parent"
    where = child.checkpoint.uri.removeprefix("file://")
    return ConfigError(
        f"RL checkpoint {child.checkpoint.id[:12]} was measured on {name} with {what} than its "
        f"parent {parent.checkpoint.id[:12]}",
        why="the two numbers cannot be compared",
        fix=f"rlready evaluate {where} {flags}; config.json of the parent's run in MLflow has them",
    )


def _by_benchmark(stored: StoredCheckpoint) -> dict[str, list[Proxy]]:
    """Return every pass@1 of a checkpoint, by benchmark; it is the outcome of the RL's parent."""
    proxies: dict[str, list[Proxy]] = {}
    for proxy in stored.proxies:
        if proxy.name == PRACTICE:
            proxies.setdefault(proxy.benchmark, []).append(proxy)
    return proxies


def sampled_on(stored: StoredCheckpoint) -> list[str]:
    """Return the benchmarks with a pass@k of any k."""
    names = (proxy.benchmark for proxy in stored.proxies if proxy.name.startswith("pass_at_"))
    return list(dict.fromkeys(names))


def _way(proxy: Proxy) -> tuple[str, str | None]:
    return (proxy.benchmark_digest, proxy.protocol_digest)


def _replaced(parent: StoredCheckpoint, reference: str) -> str:
    ids = [o.id for o in parent.outcomes if o.id.startswith(reference)]
    if len(ids) != 1:
        outcomes = ", ".join(f"{o.id[:12]} ({o.key})" for o in parent.outcomes) or "none"
        raise ConfigError(
            f"--replaces {reference} matches {len(ids)} outcomes of checkpoint "
            f"{parent.checkpoint.id[:12]}",
            fix=f"It has {outcomes}",
        )
    return ids[0]
