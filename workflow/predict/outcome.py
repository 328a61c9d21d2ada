"""What RL made of a checkpoint: from a number, a curve or an RL checkpoint into the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from rlready.registry.digest import default_cache_dir, fingerprint
from rlready.registry.errors import ConfigError, CurveError, StoreError
from rlready.registry.foreign_files import read_toml
from rlready.registry.outcome_conflicts import Conflict, conflicts
from rlready.registry.records import BudgetUnit, Outcome, Proxy, Statistic
from rlready.registry.store import (
    Store,
    StoredCheckpoint,
    StoredOutcome,
    check_rl_checkpoint,
    how_to_register,
)
from rlready.workflow.flags import Flag, split_pairs

if TYPE_CHECKING:
    from rlready.predictors.rl_curve import Curve

MEASURE = "pass_at_1"
"""The proxy of an RL checkpoint that is its parent's outcome."""

_SCALE, _APART = 30.0, 0.1
"""Two scores of the same weights whose ratio and difference exceed these are in two units."""

_PROTOCOL_FLAGS = "--temperature, --top-p, --max-tokens, --prompt-template and --seed"


@dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """What `rlready outcome` records: one field per flag, whose help stands under `Args:`.

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
        given = [self.value is not None, self.curve is not None, self.rl_checkpoint is not None]
        if sum(given) != 1:
            raise ConfigError(
                f"{sum(given)} of --value, --curve and --rl-checkpoint are given",
                fix="Give one: where the number comes from",
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
                known = ", ".join(get_args(Statistic))
                raise ConfigError(f"there is no statistic {name!r}", fix=f"Known: {known}")
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
                    f"--map {text!r} does not say which column is meant",
                    fix="Give --map NAME=COLUMN, for example --map gsm8k=eval/gsm8k/score",
                )

    def column_names(self) -> dict[str, str]:
        """Columns of the curve that the user names, by benchmark or budget unit."""
        pairs = [text.partition("=") for text in self.columns]
        return {name.strip(): column.strip() for name, _, column in pairs}


@dataclass(frozen=True, kw_only=True)
class OutcomeReport:
    """What was recorded.

    Args:
        checkpoint: as the registry knows it now.
        outcomes: what was put, with where it went.
        warnings: what a person should know.
    """

    checkpoint: StoredCheckpoint
    outcomes: Sequence[tuple[Outcome, StoredOutcome]]
    warnings: Sequence[str] = ()

    @property
    def conflicts(self) -> list[Conflict]:
        """Contradictions that the checkpoint's outcomes hold now."""
        return conflicts(self.checkpoint.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object: the contract of `rlready outcome --json`."""
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
    """An outcome as JSON values, with its id and column."""
    return {"id": outcome.id, "key": outcome.key, **dataclasses.asdict(outcome)}


def record(config: OutcomeConfig, store: Store) -> OutcomeReport:
    """The outcomes that the flags describe, stored.

    All are made and checked before the first is put.

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
        warnings += _unmeasured(parent, [outcomes[0].benchmark])
    if config.replaces is not None and len(outcomes) > 1:
        raise ConfigError(
            f"--replaces with {len(outcomes)} outcomes",
            fix="Give --benchmark and one --statistic, so that one takes the other's place",
        )
    put = [(outcome, store.put_outcome(outcome)) for outcome in outcomes]
    after = store.find(parent.checkpoint.id)
    return OutcomeReport(checkpoint=after, outcomes=put, warnings=warnings)


def _number(config: OutcomeConfig) -> dict[str, Any]:
    """The value that the flags give, as a share between 0 and 1, with its standard error."""
    from rlready.predictors.curve_columns import check_score
    from rlready.predictors.curve_scale import MAX_SE, as_share

    assert config.value is not None
    assert config.benchmark is not None
    check_score(config.benchmark, f"--benchmark {config.benchmark}")
    value = as_share(config.value, "--value", percent=config.percent)
    se = config.se
    if se is not None:
        se = se / 100.0 if config.percent else se
        if not 0.0 <= se <= MAX_SE:
            raise ConfigError(
                f"--se is {config.se:g}, which is no standard error of --value {config.value:g}",
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
    from rlready.predictors.curve_columns import choose
    from rlready.predictors.curve_file import read_table
    from rlready.predictors.rl_curve import curves, statistic

    measured = _sampled_on(parent)
    given = config.column_names()
    table = read_table(path)
    columns = choose(table, config.budget_unit, config.benchmark, measured, given)
    outcomes = []
    for benchmark, curve in curves(table, columns, percent=config.percent).items():
        _check_start(parent, benchmark, curve)
        for name in dict.fromkeys(config.statistics):
            found = statistic(curve, name, config.budget)
            outcomes.append(
                Outcome(
                    **common,
                    benchmark=benchmark,
                    statistic=name,
                    value=found.value,
                    se=found.se,
                    n_evaluations=found.n_evaluations,
                )
            )
    warnings += columns.notes(path)
    warnings += _unmeasured(parent, list(columns.values))
    return outcomes


def _check_start(parent: StoredCheckpoint, benchmark: str, curve: Curve) -> None:
    """Return unless the curve's score before RL contradicts the checkpoint's own by its scale."""
    start = curve.points[0]
    for proxy in _by_benchmark(parent).get(benchmark, []):
        low, high = sorted((start.value, proxy.value))
        if start.budget == 0.0 and high > _SCALE * low > 0.0 and high - low > _APART:
            raise CurveError(
                f"{curve.benchmark} begins with {start.value:g} at budget 0, and the checkpoint's "
                f"pass@1 on {benchmark} is {proxy.value:g}",
                why="both are of the same weights, so one of them is in another unit",
                fix="Correct the column or --percent; if both are right, leave out the row of "
                "budget 0",
            )


def _unmeasured(parent: StoredCheckpoint, benchmarks: Sequence[str]) -> list[str]:
    """A warning for each benchmark that the checkpoint has no pass@1 on: perhaps a wrong name."""
    measured = _sampled_on(parent)
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
    """pass@1 of the RL checkpoint wherever its parent was measured in the same way."""
    assert config.rl_checkpoint is not None
    child = _find_rl_checkpoint(store, config.rl_checkpoint, parent)
    shared = _measured_alike(parent, child, config.benchmark, warnings)
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
        for proxy in shared
    ]


def _find_rl_checkpoint(store: Store, reference: str, parent: StoredCheckpoint) -> StoredCheckpoint:
    folder = Path(reference)
    wanted = fingerprint(folder, default_cache_dir()) if folder.is_dir() else reference
    try:
        found = store.find(wanted)
    except StoreError as error:
        raise StoreError(
            f"RL checkpoint {reference} is not in the registry",
            why=error.what,
            fix=how_to_register(parent.checkpoint),
        ) from error
    if found.checkpoint.id == parent.checkpoint.id:
        raise ConfigError(
            f"RL checkpoint {reference} has the weights of {parent.checkpoint.name} itself",
            why="RL changed nothing, or this is the folder that it began from",
            fix="Name another folder; or, if no reward was ever found, record the checkpoint's own "
            "pass@1 with --value",
        )
    check_rl_checkpoint(parent.checkpoint, found.checkpoint)
    return found


def _measured_alike(
    parent: StoredCheckpoint,
    child: StoredCheckpoint,
    benchmark: str | None,
    warnings: list[str],
) -> list[Proxy]:
    """The child's pass@1 on each benchmark and protocol that its parent's was measured with.

    Raises:
        ConfigError: if there is none, or a benchmark was measured in another way only.
    """
    before = _by_benchmark(parent)
    after = _by_benchmark(child)
    wanted = list(before) if benchmark is None else [benchmark]
    if not before or wanted[0] not in before:
        raise ConfigError(
            f"checkpoint {parent.checkpoint.id[:12]} ({parent.checkpoint.name}) has no pass@1"
            + (f" on {benchmark}" if before else ""),
            why=f"it has pass@1 on {', '.join(before)}" if before else "it was never sampled",
            fix="Evaluate it on the benchmark first: an outcome is compared with its parent",
        )
    shared = []
    for name in wanted:
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
            f"on {', '.join(wanted)}",
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
    contents = {proxy.benchmark_digest for proxy in before}
    other_content = all(proxy.benchmark_digest not in contents for proxy in after)
    what = "other problems" if other_content else "another protocol"
    flags = (
        f"with the file of {name} and the --limit that were used for the parent"
        if other_content
        else f"with the parent's {_PROTOCOL_FLAGS}"
    )
    where = child.checkpoint.uri.removeprefix("file://")
    return ConfigError(
        f"RL checkpoint {child.checkpoint.id[:12]} was measured on {name} with {what} than its "
        f"parent {parent.checkpoint.id[:12]}",
        why="the two numbers cannot be compared",
        fix=f"rlready evaluate {where} {flags}; config.json of the parent's run in MLflow has them",
    )


def _by_benchmark(stored: StoredCheckpoint) -> dict[str, list[Proxy]]:
    found: dict[str, list[Proxy]] = {}
    for proxy in stored.proxies:
        if proxy.name == MEASURE:
            found.setdefault(proxy.benchmark, []).append(proxy)
    return found


def _sampled_on(stored: StoredCheckpoint) -> list[str]:
    """Benchmarks with a pass@k of any k."""
    names = (proxy.benchmark for proxy in stored.proxies if proxy.name.startswith("pass_at_"))
    return list(dict.fromkeys(names))


def _way(proxy: Proxy) -> tuple[str, str | None]:
    return (proxy.benchmark_digest, proxy.protocol_digest)


def _replaced(parent: StoredCheckpoint, reference: str) -> str:
    found = [o.id for o in parent.outcomes if o.id.startswith(reference)]
    if len(found) != 1:
        known = ", ".join(f"{o.id[:12]} ({o.key})" for o in parent.outcomes) or "none"
        raise ConfigError(
            f"--replaces {reference} names {len(found)} outcomes of checkpoint "
            f"{parent.checkpoint.id[:12]}",
            fix=f"It has {known}",
        )
    return found[0]
