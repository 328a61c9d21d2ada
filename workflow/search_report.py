"""What a search has found: recipes in order of predicted outcome, and the response surface.

The surrogate is fitted on all finished trials, those of the registry among them. A recipe's value
is one noisy run; what it is ranked by is the prediction for its recipe, which runs around it
steady. The surface moves one source's weight through its range, from the best recipe, the other
weights in their proportions as far as floors and caps let them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.dataset import FloatArray
from rlready.predictors.mixture_model import MixtureModel
from rlready.predictors.proposer import Guard, ProposerConfig, Runs
from rlready.predictors.recipes import Points, RecipeSpace
from rlready.predictors.search import finished_runs, propose_recipes
from rlready.predictors.simplex import fill
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search_folder import write_text

if TYPE_CHECKING:
    from optuna.study import Study
    from rich.console import RenderableType

Z = 1.6449
"""Bands are +-Z standard deviations: 90 % of a normal law."""

_GRID = 25
_SHOWN = 15
_BLUE, _DOT = "#1b6ca8", "#d98c1f"


@dataclass(frozen=True, kw_only=True)
class RankedRecipe:
    """A recipe and what is known of its outcome.

    Args:
        trial: its number; None if nobody has tried it.
        origin: who proposed it.
        recipe: what to train.
        value: what the study was told.
        se: its standard error.
        predicted: outcome by the surrogate, noise of a run taken out.
        sd: standard deviation of the prediction.
        domain: "in", "edge" or "out" of what finished runs tell about.
        reason: why it is not in the domain.
        tokens: that training sees, if the space says.
    """

    trial: int | None
    origin: str
    recipe: Recipe
    value: float | None
    se: float | None
    predicted: float
    sd: float
    domain: str
    reason: str
    tokens: float | None

    def to_dict(self) -> dict[str, Any]:
        """The row as one JSON object."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}


@dataclass(frozen=True, kw_only=True)
class SurfacePoint:
    """Predicted outcome where a source has this weight.

    Args:
        source: its name.
        weight: its weight.
        predicted: outcome by the surrogate.
        low: end of the band.
        high: end of the band.
        domain: as in `RankedRecipe`.
    """

    source: str
    weight: float
    predicted: float
    low: float
    high: float
    domain: str


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What a search has found.

    Args:
        study: its name.
        states: number of trials by state.
        rows: finished recipes, the best prediction first.
        untried: recipes that the surrogate would try next.
        surface: of every source.
        noise_sd: of one run around its recipe's outcome, as the surrogate sees it.
    """

    study: str
    states: dict[str, int]
    rows: tuple[RankedRecipe, ...]
    untried: tuple[RankedRecipe, ...]
    surface: tuple[SurfacePoint, ...]
    noise_sd: float

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object: the contract of `rlready search report --json`."""
        return {
            "study": self.study,
            "states": self.states,
            "noise_sd": self.noise_sd,
            "ranking": [row.to_dict() for row in self.rows],
            "untried": [row.to_dict() for row in self.untried],
            "surface": [asdict(point) for point in self.surface],
        }


def search_report(study: Study, space: RecipeSpace, *, n_untried: int = 3) -> SearchReport:
    """The report of a study.

    Raises:
        ConfigError: if fewer than two trials are finished.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    done = [t for t in trials if t.state == TrialState.COMPLETE and space.covers(t.params)]
    if len(done) < 2:
        raise ConfigError(
            f"study {study.study_name!r} has {len(done)} finished trials",
            why="a surrogate needs two",
            fix="Tell some: rlready search tell TRIAL --value V",
        )
    runs = finished_runs(study, space)
    surrogate = _Surrogate(space, runs)
    mean, sd, domain, reasons = surrogate.said(runs.points)
    tokens = space.tokens(runs.points)
    rows = [
        RankedRecipe(
            trial=trial.number,
            origin=str(trial.user_attrs.get("rlready:origin", "unknown")),
            recipe=space.recipe(runs.points, i),
            value=trial.value,
            se=(trial.user_attrs.get("rlready:errors") or [None])[0],
            predicted=float(mean[i]),
            sd=float(sd[i]),
            domain=domain[i],
            reason=reasons[i],
            tokens=None if tokens is None else float(tokens[i]),
        )
        for i, trial in enumerate(done)
    ]
    names = [trial.state.name.lower() for trial in trials]
    return SearchReport(
        study=study.study_name,
        states={name: names.count(name) for name in sorted(set(names))},
        rows=tuple(sorted(rows, key=lambda row: -row.predicted)),
        untried=_untried(study, space, surrogate, n_untried),
        surface=tuple(_surface(surrogate, runs.points.rows(np.array([int(np.argmax(mean))])))),
        noise_sd=surrogate.model.noise_sd_,
    )


def write_report(report: SearchReport, folder: Path) -> list[Path]:
    """The files of a report: ranking and surface as CSV, the surface as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    ranking, surface = folder / "ranking.csv", folder / "surface.csv"
    write_text(ranking, _ranking_csv(report))
    write_text(surface, _csv([asdict(point) for point in report.surface]))
    return [ranking, surface, draw_surface(folder / "surface.png", report)]


def draw_surface(path: Path, report: SearchReport) -> Path:
    """Draw predicted outcome against the weight of each source, with bands; returns the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sources = list(dict.fromkeys(point.source for point in report.surface))
    columns = min(3, len(sources))
    n_rows = -(-len(sources) // columns)
    figure, panels = plt.subplots(
        n_rows,
        columns,
        figsize=(3.6 * columns + 0.6, 3.0 * n_rows + 0.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, source in zip(panels.flat, sources, strict=False):
        _draw_source(axes, source, report)
    for axes in panels.flat[len(sources) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("outcome")
    figure.suptitle(
        f"{report.study}: predicted outcome against weight, from the best recipe "
        "(band 90 %, dots: finished runs)",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def report_view(report: SearchReport) -> RenderableType:
    """The ranking as a table for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    states = ", ".join(f"{n} {name}" for name, n in report.states.items())
    table = Table(title=Text(f"study {report.study}: {states}"))
    for heading in ("trial", "from", "value", "predicted", "sd", "domain", "mixture", "settings"):
        table.add_column(heading, justify="right" if heading in ("trial", "value") else "left")
    for row in (*report.rows[:_SHOWN], *report.untried):
        table.add_row(
            "next" if row.trial is None else str(row.trial),
            row.origin,
            "" if row.value is None else f"{row.value:.4g}",
            f"{row.predicted:.4g}",
            f"{row.sd:.2g}",
            row.domain,
            Text(_mixture(row.recipe)),
            Text(_settings(row.recipe)),
        )
    notes = [f"one run scatters by {report.noise_sd:.2g} around its recipe's outcome"]
    if len(report.rows) > _SHOWN:
        notes.append(f"{len(report.rows) - _SHOWN} more finished recipes: --json, ranking.csv")
    notes += [f"next: {row.domain}, {row.reason}" for row in report.untried if row.reason]
    return Group(table, *(Text(note) for note in dict.fromkeys(notes)))


class _Surrogate:
    """The model of finished runs, and how far it reaches."""

    def __init__(self, space: RecipeSpace, runs: Runs) -> None:
        some = runs.some(ProposerConfig().max_rows)
        self.space = space
        self.model = MixtureModel(space.feature_groups).fit(
            space.features(some.points),
            some.outcomes[:, 0],
            None if some.errors is None else some.errors[:, 0],
        )
        self.guard = Guard(space, runs.points)

    def said(self, points: Points) -> tuple[FloatArray, FloatArray, list[str], Sequence[str]]:
        """Mean, standard deviation, domain and reason of each of n recipes."""
        mean, sd = self.model.predict(self.space.features(points), return_std=True)
        domain, reasons = self.guard.judge(points)
        return mean, sd, [str(one) for one in domain], reasons


def _untried(
    study: Study, space: RecipeSpace, surrogate: _Surrogate, n: int
) -> tuple[RankedRecipe, ...]:
    rows = []
    for asked in propose_recipes(study, space, n):
        points = space.points(asked.recipe)
        mean, sd, domain, reasons = surrogate.said(points)
        tokens = space.tokens(points)
        rows.append(
            RankedRecipe(
                trial=None,
                origin=asked.origin,
                recipe=asked.recipe,
                value=None,
                se=None,
                predicted=float(mean[0]),
                sd=float(sd[0]),
                domain=domain[0],
                reason=reasons[0],
                tokens=None if tokens is None else float(tokens[0]),
            )
        )
    return tuple(rows)


def _surface(surrogate: _Surrogate, best: Points) -> list[SurfacePoint]:
    space = surrogate.space
    found: list[SurfacePoint] = []
    for i, source in enumerate(space.sources):
        mixtures = _through(space, best.weights[0], i)
        points = Points(weights=mixtures, axes=np.tile(best.axes, (len(mixtures), 1)))
        points = points.rows(space.keeps_limits(points))
        if not len(points):
            continue
        mean, sd, domain, _ = surrogate.said(points)
        found += [
            SurfacePoint(
                source=source.name,
                weight=float(points.weights[k, i]),
                predicted=float(mean[k]),
                low=float(mean[k] - Z * sd[k]),
                high=float(mean[k] + Z * sd[k]),
                domain=domain[k],
            )
            for k in range(len(points))
        ]
    return found


def _through(space: RecipeSpace, best: FloatArray, i: int) -> FloatArray:
    """(n, sources) mixtures over the range of weight i, the rest near the best's proportions."""
    floors, caps = space.simplex.floors.copy(), space.simplex.caps.copy()
    others = np.arange(len(best)) != i
    low = max(floors[i], 1.0 - caps[others].sum())
    high = min(caps[i], 1.0 - floors[others].sum())
    mixtures = []
    for weight in np.linspace(low, high, _GRID):
        floors[i] = caps[i] = weight
        mixtures.append(fill((best - floors)[None, :], floors, caps)[0])
    return np.array(mixtures)


def _draw_source(axes: Any, source: str, report: SearchReport) -> None:
    own = [point for point in report.surface if point.source == source]
    weights = [point.weight for point in own]
    axes.fill_between(
        weights, [p.low for p in own], [p.high for p in own], color=_BLUE, alpha=0.18, linewidth=0
    )
    axes.plot(weights, [p.predicted for p in own], color=_BLUE, linewidth=1.6)
    out = [p for p in own if p.domain == "out"]
    axes.plot([p.weight for p in out], [p.predicted for p in out], "x", color="#b03a5b", ms=4)
    axes.scatter(
        [row.recipe.sources[source] for row in report.rows],
        [row.value for row in report.rows],
        s=12,
        color=_DOT,
        zorder=3,
    )
    axes.axvline(report.rows[0].recipe.sources[source], color="#999999", lw=0.8, ls="--")
    axes.set_xlabel(f"weight of {source}" + (" (x: out of domain)" if out else ""))
    axes.spines[["top", "right"]].set_visible(False)


def _ranking_csv(report: SearchReport) -> str:
    rows = []
    for row in (*report.rows, *report.untried):
        values = row.recipe.to_dict()
        sources = values.pop("sources", {})
        facts = {k: v for k, v in asdict(row).items() if k != "recipe"}
        weights = {f"sources.{name}": weight for name, weight in sources.items()}
        rows.append({**facts, **weights, **values})
    return _csv(rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _mixture(recipe: Recipe) -> str:
    weights = sorted(recipe.sources.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.2f}" for name, weight in weights if weight >= 0.005)


def _settings(recipe: Recipe) -> str:
    others = {k: v for k, v in recipe.to_dict().items() if k not in ("sources", "base_model")}
    said = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in others.items()]
    return ", ".join(said)
