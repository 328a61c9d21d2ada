"""Start an entry point of MLproject: `python workflow/launch/run.py PID COMMAND ARGUMENTS...`.

PID is the process of `mlflow run`. Only the standard library is imported here, so that an
environment without rlready's dependencies gets a message and no traceback.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    # The script's folder is already first in this process; child processes need PYTHONPATH.
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([here, inherited] if inherited else [here])
    try:
        from rlready.workflow.cli.mlproject import main
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} cannot run rlready: {error}. Run "
            f"`{sys.executable} -m pip install '{Path(here).parents[1]}[local]'`, or leave out "
            "--env-manager=local, and MLflow makes an environment.",
            file=sys.stderr,
        )
        sys.exit(2)
    main(sys.argv[1:])
