"""The command `rlready`: one sub-command per step, text for people, `--json` for machines.

Only light modules are imported here and by the commands' modules, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rlready.registry.failures import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
    fault,
    foreseen,
)
from rlready.registry.redaction import has_secret
from rlready.workflow.cli import (
    compare,
    evaluate,
    imports,
    outcome,
    predict,
    preflight,
    search,
    tags,
    testbed,
    validate,
)
from rlready.workflow.flags import CommonFlags, command
from rlready.workflow.terminal import echo, prepare_streams, text_width

_LINE_CHARACTERS = 2_000
_STATE_AFTER_CTRL_C = {
    "evaluate": "samples, verdicts and losses made so far are kept in --samples-dir, and the same "
    "call continues from them",
    "search": "reported results are in the study; an unfinished trial is offered again when its "
    "lease has expired",
    "preflight": "samples and verdicts made so far are kept in --samples-dir, and the same call "
    "continues from them",
    "testbed": "what was trained and measured so far is kept in --out, and the same call continues "
    "from it",
    "outcome": "an outcome that was logged is kept; the same call adds only what is missing",
    "import": "a record that was logged is kept; the same call adds only what is missing",
    "tag": "a tag that was set is kept; the same call adds only what is missing",
}

_STORED_BY_MLFLOW = (
    "a URI with a password is a parameter of `mlflow run`, which has stored it in the run and "
    "printed it before rlready began. Give it as the environment variable MLFLOW_TRACKING_URI, or "
    "the password in MLFLOW_TRACKING_PASSWORD or ~/.pgpass; and change this password"
)


class Group(click.Group):
    """Turns any failure of a sub-command into one line and an exit code.

    | exit code | what happened |
    | --- | --- |
    | 1 | a fault of rlready; the line names a file with the details |
    | 2 | a mistake of the user, or something that the machine lacks |
    | 130, 141 | Ctrl-C; the reader of a pipe went away |
    """

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group.invoke`."""
        prepare_streams()
        words = [*sys.argv, *ctx.args]  # before they are consumed
        if "MLFLOW_RUN_ID" in os.environ and any(map(has_secret, _uris(words))):
            echo(f"warning: {_STORED_BY_MLFLOW}", err=True)
        try:
            # Fail before any work: a name that cannot be encoded cannot be stored.
            "".join(words).encode()
            result = super().invoke(ctx)
            # Text left in the buffer would fail when Python ends, with a traceback.
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Python ends with a message about the closed pipe unless stdout leads elsewhere.
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE_CLOSED)
        except KeyboardInterrupt:
            state = _STATE_AFTER_CTRL_C.get(
                ctx.invoked_subcommand or "", "nothing is half done; repeat the call"
            )
            echo(f"interrupted: {state}", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            line = foreseen(error)
            if line is not None:
                if len(line) > _LINE_CHARACTERS:  # it may quote a whole file
                    half = _LINE_CHARACTERS // 2
                    line = f"{line[:half]} [...] {line[-half:]}"
                echo(f"error: {line}", err=True)
                ctx.exit(EXIT_USAGE)
            echo(f"error: {fault(error, _uris(words))}", err=True)
            ctx.exit(EXIT_FAULT)


def _uris(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that may contain a password."""
    values = (word.partition("=")[2] if word.startswith("--") else word for word in words)
    return [value for value in values if "://" in value]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlready", prog_name="rlready")
def main() -> None:
    """Find the SFT checkpoint that deserves the RL budget.

    rlready measures checkpoints before RL (held-out loss, unbiased pass@k and other proxies, each
    with a standard error) and stores them in MLflow as models. It records the score after RL,
    predicts this score for other checkpoints with intervals, ranks them, plans the next RL runs,
    tags the chosen checkpoint, and searches for the SFT recipe to train next.
    """


@command
def list_checkpoints(common: CommonFlags) -> None:
    """List the checkpoints in the registry, the oldest first."""
    from rlready.workflow.cli.views.checkpoint import checkpoint_dict, list_view

    stored = common.open_store().checkpoints()
    values = {
        "experiment": common.experiment,
        "checkpoints": [checkpoint_dict(each) for each in stored],
    }
    common.show(values, lambda: list_view(stored, common.experiment, text_width()))


@command
def show(checkpoint: str, *, common: CommonFlags) -> None:
    """Show what the registry knows about CHECKPOINT.

    CHECKPOINT is an id, the beginning of one, a name, or an MLflow model id.
    """
    from rlready.workflow.cli.views.checkpoint import checkpoint_dict, checkpoint_view

    stored = common.open_store().find(checkpoint)
    common.show(checkpoint_dict(stored), lambda: checkpoint_view(stored, text_width()))


main.add_command(list_checkpoints, "list")
main.add_command(testbed.run_testbed, "testbed")
main.add_command(imports.import_results, "import")
main.add_command(imports.export_registry, "export")
for each in (
    evaluate.evaluate,
    preflight.preflight,
    show,
    compare.compare,
    compare.report,
    outcome.outcome,
    outcome.table,
    predict.fit,
    validate.validate,
    predict.rank,
    predict.plan,
    validate.audit,
    tags.tag,
    tags.resolve,
    search.search,
):
    main.add_command(each)
