"""The demonstration: choose 3 of 12 checkpoints for RL, and see what choosing well was worth.

The shipped results hold 48 SFT checkpoints of the testbed with their true scores after GRPO. All
rules were written down before any result of the demonstration was looked at:

- Hidden are the outcomes of 12 checkpoints, 3 of each SFT style, by a fixed draw (`held_back`).
- Two of the 12 are trained again and measured by `rlready evaluate`: the first of two styles in the
  draw that are cheap to train (`made_again`). The other 46 have the shipped proxies.
- A predictor of the default model and proxies learns from 36 outcomes, and 3 RL runs are planned.
- The practice chooses the 3 with the best pass@1 after SFT, on the four benchmarks that `rlready
  evaluate` can judge.
- The shown pair is the one that prediction and pass@1 order differently, with the largest
  predicted difference (`Story.disagreement`).

The registry is one of its own. The hidden outcomes are never recorded there, so a repeated call
finds everything done and tells the same story.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import now_ms
from rlready.workflow.testbed.measure_again import COMMAND_LINE, measure_again
from rlready.workflow.testbed.narrator import WIDTH, Narrator
from rlready.workflow.testbed.story import Hidden, Story

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.registry.store import StoredCheckpoint
    from rlready.workflow.predict.load import AppliedPredictor

PREDICTOR = "grpo-predictor"
N_RUNS = 3
_N_STEPS = 6
_INTRODUCTION = (
    "Which {n_runs} of {n_hidden} SFT checkpoints should get RL?",
    "",
    "{n_all} checkpoints of a tiny base model had real SFT and real GRPO, so the answer is known. "
    "The scores after RL of {n_hidden} of them, by a fixed draw, stay hidden until "
    "the plan is made.",
    "",
    "Score: pass@1 after {n_steps} GRPO steps, mean of six benchmarks. pass@1 below is that before "
    "RL, on the four of them whose answers `rlready evaluate` can judge.",
    "",
)


def tell(
    out: Path,
    say: Callable[[str], None],
    *,
    tracking_uri: str | None = None,
    experiment: str = "rlready",
    is_measured: bool = True,
) -> Story:
    """Run the demonstration and return what came of it.

    Args:
        out: folder of the registry, of the two checkpoints and of their samples.
        say: prints a line.
        tracking_uri: of another registry than the one in `out`, which must be of the demonstration.
        experiment: MLflow experiment.
        is_measured: whether two checkpoints are trained and measured; if not, theirs are shipped
            proxies too.

    Raises:
        RlreadyError: for any mistake of the user or the environment.

    Example:
        >>> tell(Path("demo"), print).verdict()  # doctest: +SKIP
    """
    from rlready.testbed.study.shipped import PROFILE, held_back, made_again, shipped_rows

    hidden, n_all, n_steps = held_back(), len(shipped_rows()), PROFILE.grpo.n_steps
    again, n_open = made_again(hidden) if is_measured else (), n_all - len(hidden)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {out} cannot be made", why=str(error.strerror), fix="Name another --out"
        ) from error
    for text in _INTRODUCTION:
        words = text.format(n_runs=N_RUNS, n_hidden=len(hidden), n_all=n_all, n_steps=n_steps)
        for line in textwrap.wrap(words, WIDTH) or [""]:
            say(line)
    narrator = Narrator(say, _N_STEPS)
    store = _open_registry(out, tracking_uri, experiment, say)
    shown = _shown_uri(store.tracking_uri)
    narrator.step(f"Fill the registry {shown}: proxies before RL, {n_open} outcomes")
    _fill(store, hidden, again, narrator)
    measure_again(out, store, again, narrator)
    _fit(store, n_open, narrator)
    story = _decide(out, store, hidden, narrator)
    page = _report(out, store)
    narrator.step(f"The {len(hidden)} hidden scores after RL, best prediction first")
    for line in (*story.table(), "", *story.accuracy(), *story.difference(), ""):
        say(line)
    commands = "" if shutil.which("rlready") else f"{_shown(Path(sys.executable).parent)}/"
    say(page)
    say("")
    say("The registry in MLflow:")
    say(commands + store.ui_hint())
    say(f"Ask it: {commands}rlready rank --tracking-uri {shown}")
    say("")
    for line in textwrap.wrap(story.verdict(), WIDTH, break_on_hyphens=False):
        say(line)
    return story


def _open_registry(
    out: Path, tracking_uri: str | None, experiment: str, say: Callable[[str], None]
) -> MlflowStore:
    """Return the demonstration's registry in a folder, or the one that is named.

    A registry in the folder that somebody has added to is left alone, and the next name is taken.

    Raises:
        ConfigError: if the named registry holds other checkpoints or outcomes.
    """
    from rlready.registry.mlflow_store.store import MlflowStore

    if tracking_uri is not None:
        store = MlflowStore(tracking_uri, experiment)
        if not _is_untouched(store.checkpoints()):
            raise ConfigError(
                f"{store!r} holds other checkpoints or outcomes than the demonstration's",
                why="its numbers would be mixed with yours",
                fix="Leave --tracking-uri out: the demonstration has a registry of its own",
            )
        return store
    for n in itertools.count(1):
        path = out / ("mlflow.db" if n == 1 else f"mlflow-{n}.db")
        store = MlflowStore(f"sqlite:///{path.resolve()}", experiment)
        if not path.exists() or _is_untouched(store.checkpoints()):
            return store
        say(f"{path} holds more than the demonstration's checkpoints and is left alone.")
    raise AssertionError


def _is_untouched(stored: Sequence[StoredCheckpoint]) -> bool:
    """Return whether a registry holds nothing but what the demonstration puts into it."""
    from rlready.testbed.study.shipped import held_back, shipped_outcome, shipped_rows

    hidden, names = set(held_back()), shipped_rows().keys()
    for one in stored:
        name = one.checkpoint.name
        if name not in names:
            return False
        expected = set() if name in hidden else {shipped_outcome(name).id}
        if not {outcome.id for outcome in one.outcomes} <= expected:
            return False
    return True


def _fill(
    store: MlflowStore, hidden: Sequence[str], again: Sequence[str], narrator: Narrator
) -> None:
    """Put the shipped checkpoints into the registry, and the outcomes that are not hidden."""
    from rlready.testbed.study.shipped import shipped_evaluation, shipped_outcome, shipped_rows

    names = [name for name in shipped_rows() if name not in again]
    for n, name in enumerate(names, 1):
        store.put_evaluation(shipped_evaluation(name))
        if name not in hidden:
            store.put_outcome(shipped_outcome(name))
        if n % 16 == 0 or n == len(names):
            narrator.detail(f"{n} of {len(names)} checkpoints")


def _fit(store: MlflowStore, n_outcomes: int, narrator: Narrator) -> None:
    from rlready.testbed.study.shipped import TARGET
    from rlready.workflow.predict.fit import fit

    narrator.step(f"Learn from {n_outcomes} outcomes: rlready fit --target {TARGET}")
    report = fit(store, target=TARGET, name=PREDICTOR)
    narrator.detail(f"{report.signal}")


def _decide(out: Path, store: MlflowStore, hidden: Sequence[str], narrator: Narrator) -> Story:
    """Rank the hidden checkpoints, plan RL runs, and look up what each reached."""
    from rlready.testbed.study.shipped import shipped_outcome
    from rlready.workflow.predict.audit import freeze, frozen_prediction
    from rlready.workflow.predict.figures import draw_regret
    from rlready.workflow.predict.load import load
    from rlready.workflow.predict.plan import plan_applied
    from rlready.workflow.predict.rank import rank_applied

    narrator.step(f"Decide: rlready rank; rlready plan --rl-runs {N_RUNS}")
    applied = load(store, PREDICTOR)
    ranking, report = rank_applied(applied), plan_applied(applied, N_RUNS)
    freeze(store, frozen_prediction(applied, "plan", report.plan.chosen, at_ms=now_ms()))
    draw_regret(out / "regret.png", report)
    practice = _practice(applied)
    by_practice = sorted(hidden, key=lambda name: -practice[name])[:N_RUNS]
    for label, names in (("the plan chooses", report.plan.chosen), ("pass@1 chooses", by_practice)):
        narrator.detail(f"{label}:")
        for name in names:
            narrator.detail(f"  {name}")
    narrator.detail("the predictions are written down for `rlready audit`")
    rows = []
    for row in ranking.rows:
        if row.id in hidden:
            outcome = shipped_outcome(row.id)
            assert outcome.se is not None
            rows.append(
                Hidden(
                    name=row.id,
                    practice=practice[row.id],
                    predicted=row.predicted,
                    low=row.low,
                    high=row.high,
                    reached=outcome.value,
                    se=outcome.se,
                )
            )
    return Story(
        rows=tuple(sorted(rows, key=lambda row: -row.predicted)),
        plan=tuple(report.plan.chosen),
        practice=tuple(by_practice),
        interval=f"{applied.predictor.level:.0%}",
    )


def _practice(applied: AppliedPredictor) -> dict[str, float]:
    """Return pass@1 after SFT by name of the checkpoint."""
    from rlready.workflow.predict.registry_table import practice_column

    column = practice_column(applied.data.table)
    assert column is not None
    return dict(zip(applied.names, applied.data.frame[column].astype(float), strict=True))


def _report(out: Path, store: MlflowStore) -> str:
    """Write the page of `rlready report`, as it is before the reveal; return where it is."""
    page = out / "report.html"
    words = [sys.executable, "-c", COMMAND_LINE, "report", "--rl-runs", str(N_RUNS)]
    words += ["--out", str(page), "--predictor", PREDICTOR]
    words += ["--experiment", store.experiment, "--tracking-uri", store.tracking_uri]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"The page of `rlready report` was not written: {done.stderr.strip()}"
    return f"The decision as a page, before the reveal: {_shown(page)}"


def _shown_uri(tracking_uri: str) -> str:
    """Return the URI of a database, below the working directory with a relative path."""
    scheme, is_file, path = tracking_uri.partition("sqlite:///")
    return f"{is_file}{_shown(Path(path))}" if is_file and not scheme else tracking_uri


def _shown(path: Path) -> Path:
    """Return a path below the working directory as a relative one."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
