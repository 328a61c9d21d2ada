"""Files that hold an estimator: written and read by skops, never by pickle.

Loading a pickle can run any code. A skops file lists the types in it, and only types that skops
considers harmless or that the reader names are created.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlready.registry.digest import file_sha256
from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.predictors.moved_types import MOVED_TYPES, with_current_names

_MLFLOWS_OWN = "registered_model_meta"
"""File with name and version that MLflow adds to a local model when it loads it by its name."""


def unfamiliar_types(estimator: Any) -> list[str]:
    """Return the full names of an estimator's types that skops does not trust by default."""
    import skops.io

    try:
        return list(skops.io.get_untrusted_types(data=skops.io.dumps(estimator)))
    except Exception as error:  # the estimator can make it raise anything
        raise StoreError(
            f"predictor {type(estimator).__name__} cannot be stored without pickle",
            why=_brief(error),
            fix="Keep functions and open files out of it",
        ) from error


def load_estimator(path: Path, trusted_types: Collection[str], what: str) -> Any:
    """Load the estimator in a file. All types are checked before any of them is created.

    `trusted_types` are full names of types that may be in it beyond those that skops trusts.
    """
    import skops.io

    try:
        content = with_current_names(path)
        types = list(skops.io.get_untrusted_types(data=content))
    except Exception as error:  # the file can make it raise anything
        raise StoreError(
            f"{path.name} of {what} is not a skops file",
            why=_brief(error),
            fix="Predictors are never loaded from a pickle. Fit again: rlready fit",
        ) from error
    check_types(types, [MOVED_TYPES.get(name, name) for name in trusted_types], what)
    try:
        return skops.io.loads(content, trusted=types)
    except Exception as error:  # the same
        raise StoreError(
            f"{path.name} of {what} cannot be loaded",
            why=_brief(error),
            fix="Use the versions of scikit-learn and rlready that wrote it, or fit again",
        ) from error


def check_types(types: Collection[str], trusted_types: Collection[str], what: str) -> None:
    """Raise a StoreError with the types that are not trusted, if there are any."""
    unknown = sorted(set(types) - set(trusted_types))
    if unknown:
        raise StoreError(
            f"{what} holds types that are not trusted: {', '.join(unknown[:5])}",
            why="creating an object of an unknown type can run any code",
            fix="If they are yours, name them in trusted_types",
        )


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_files(folder: Path, wanted: Mapping[str, str], what: str) -> None:
    """Raise a StoreError unless a folder holds exactly the files with these digests."""
    digests = file_digests(folder)
    digests.pop(_MLFLOWS_OWN, None)
    differences = {
        "missing": set(wanted) - set(digests),
        "added": set(digests) - set(wanted),
        "changed": {name for name in set(wanted) & set(digests) if wanted[name] != digests[name]},
    }
    problems = [
        f"{how}: {', '.join(sorted(names)[:5])}" for how, names in differences.items() if names
    ]
    if problems:
        raise StoreError(
            f"the files of {what} are not those that were registered",
            why="; ".join(problems),
            fix="Find out who wrote to the registry's artifacts; then fit again: rlready fit",
        )


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]
