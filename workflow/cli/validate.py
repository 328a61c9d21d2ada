"""The sub-commands `validate` and `audit`, which score predictions before and after RL."""

from __future__ import annotations

from typing import Annotated

from rlready.workflow.flags import CommonFlags, Flag, command
from rlready.workflow.predict.validate_config import ValidateConfig
from rlready.workflow.terminal import console, text_width


@command
def validate(config: ValidateConfig, common: CommonFlags) -> None:
    """Measure how well post-RL scores are predicted, and compare it with current practice.

    Rows are held out one by one (loo), by whole groups (group), or by halves as in the seed paper
    (parity); --holdout names another table of such rows. Every score has a 95 % interval that
    draws whole groups.

    \b
    rlready validate --target value_at_budget/60steps@gsm8k
    rlready validate --table runs.csv --target post_rl --features val_loss,pass_at_64 --group sft_data
    """  # noqa: D301, E501 - click reads \b as "keep these lines", which are commands
    # Imported here, because their libraries are slow to load.
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.views.validate import kinds_view, validation_view
    from rlready.workflow.predict.validate import validate as run

    store = None if config.table is not None else common.open_store()
    if common.as_json:
        validated = run(config, store)
    else:
        with console(stderr=True).status("fitting models without some rows") as status:
            validated = run(config, store, lambda n, of: status.update(f"{n} of {of} fits"))
    report, model, columns = validated.report, validated.model, validated.table.columns
    values = {**report.to_dict(), "kinds": kinds_dict(columns)}
    common.show(
        values, lambda: [*kinds_view(columns), *validation_view(report, model, text_width())]
    )


@command
def audit(
    *,
    target: Annotated[str | None, Flag(metavar="KEY")] = None,
    common: CommonFlags,
) -> None:
    """Judge the predictions that `rank` and `plan` stored before the outcomes arrived.

    A checkpoint is judged if it had no outcome when it was predicted and has one now. The report
    says whether the outcomes are inside the intervals, whether there is a bias, whether the order
    is right, and how much the choice lost, compared with a choice by the score before RL. A
    prediction that was changed after it was stored is refused.

    Args:
        target: Outcome to judge.  [default: the only one that was predicted]
        common: The registry and the form of the output.
    """
    from rlready.workflow.cli.views.predict import audit_view
    from rlready.workflow.predict.audit import audit_registry

    report = audit_registry(common.open_store(), target)
    common.show(report.to_dict(), lambda: audit_view(report))
