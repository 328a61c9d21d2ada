"""The package `rlready` of the project that contains this file, instead of an installed one.

MLflow caches an environment by its requirements, so two clones of the project, or two commits of
one Git URI, share an environment. The `rlready` that is installed there belongs to the first clone,
which may have another version or be deleted. With this folder first on the import path, `mlflow
run` runs the code of the project that it was given.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2])]
