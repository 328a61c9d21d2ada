"""The package `rlready` of the project that this file lies in, whatever else is installed.

MLflow caches an environment by its requirements, and two clones of the project, or two commits of
one Git URI, share it. The `rlready` that is installed there belongs to the clone that came first,
which may be of another version, or gone. With this folder first on the import path the code that
runs is the code that `mlflow run` was given.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2])]
