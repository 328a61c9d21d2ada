"""Values of checkpoints without an outcome or a predictor, as `rlready rank` has them.

The registry is valued by one fit (`predict/first_day`). Once an outcome is recorded in a group, its
values are in the outcome's unit. Before that they are standings in one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.search.trials import KnownRun
from rlready.registry.records import Recipe
from rlready.workflow.predict.first_day import first_day

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore


def public_runs(
    store: MlflowStore, target: str | None, recipes: Mapping[str, Recipe]
) -> tuple[list[KnownRun], list[tuple[str, str]]]:
    """Return checkpoints with their value from public outcomes, and (id, reason) of the others.

    Args:
        store: the registry.
        target: column of the outcome; None: the only one, or none is recorded.
        recipes: recipe of each checkpoint, by its id.

    Raises:
        ConfigError: if no two checkpoints of a group share a proxy.
    """
    day = first_day(store, target=target, may_be_alone=True)
    table, (mean, sd) = day.data.table, day.values
    groups = {name: str(table.groups[row]) for row, name in enumerate(table.ids)}
    # Without outcomes no level is known, so one group is comparable only with itself.
    counts = Counter(groups[name] for name in recipes if name in groups)
    main = counts.most_common(1)[0][0] if counts else ""
    is_standing = not np.isfinite(mean[table.groups == main]).any()
    words, score = day.order.source, day.order.score
    if is_standing:
        words += ": standings in their group in standard deviations, not outcomes"
    runs: list[KnownRun] = []
    left_out: list[tuple[str, str]] = []
    for row, name in enumerate(table.ids):
        if name not in recipes:
            continue
        if groups[name] != main and (is_standing or not np.isfinite(mean[row])):
            left_out.append((name, f"it has no outcome, and no level is known of {groups[name]}"))
            continue
        value, error = (score[row], None) if is_standing else (mean[row], (float(sd[row]),))
        runs.append(
            KnownRun(
                name=name,
                recipe=recipes[name],
                values=(float(value),),
                errors=error,
                is_predicted=True,
                public=words,
                is_standing=is_standing,
            )
        )
    no_row = recipes.keys() - groups.keys()
    return runs, [*left_out, *((name, "it has no outcome, and no proxies") for name in no_row)]
