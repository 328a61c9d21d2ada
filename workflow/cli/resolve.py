"""From a reference in the model registry to the folder that a trainer loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rlready.evaluators.checkpoints.folder import check_folder, open_weights
from rlready.registry.digest import default_cache_dir, fingerprint
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.readiness import ResolvedCheckpoint
    from rlready.registry.records import Checkpoint


def weights_folder(checkpoint: Checkpoint) -> Path:
    """The folder that holds a checkpoint's weights, which are still those that were registered.

    Weights on a hub are fetched if they are not in its cache.

    Raises:
        CheckpointError: if the folder is gone, is no safe checkpoint, or holds other weights.
    """
    path = _folder(checkpoint)
    found = fingerprint(path, default_cache_dir())
    if found != checkpoint.fingerprint:
        raise CheckpointError(
            f"{path} does not hold the weights of checkpoint {checkpoint.id[:12]} "
            f"({checkpoint.name})",
            why=f"their fingerprint is {found[:12]}: they were replaced since they were evaluated",
            fix="Put the registered weights back, or evaluate and tag what lies there now",
        )
    return path


def resolved_dict(found: ResolvedCheckpoint, path: Path) -> dict[str, Any]:
    """What is known of a resolved checkpoint: the contract of `rlready resolve --json`."""
    checkpoint, tag = found.checkpoint, found.tag
    return {
        "path": str(path),
        "uri": checkpoint.uri,
        "checkpoint_id": checkpoint.id,
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "model_id": found.model_id,
        "version": found.version,
        "aliases": list(found.aliases),
        "tag": None if tag is None else tag.to_dict(),
    }


def _folder(checkpoint: Checkpoint) -> Path:
    whose = f"checkpoint {checkpoint.id[:12]} ({checkpoint.name})"
    scheme, _, rest = checkpoint.uri.partition("://")
    if scheme == "hf":
        return open_weights(rest).path
    if scheme != "file":
        raise CheckpointError(
            f"the weights of {whose} are at {checkpoint.uri}",
            why="rlready reads folders (file://) and hubs (hf://)",
            fix="Fetch them yourself, and evaluate the folder",
        )
    path = Path(url2pathname(urlsplit(checkpoint.uri).path))
    if not path.is_dir():
        raise CheckpointError(
            f"the weights of {whose} are gone",
            why=f"there is no folder {path}",
            fix="Put them back; or evaluate them where they lie now, which registers the new place",
        )
    check_folder(path)
    return path
