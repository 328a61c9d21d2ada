"""What a ranking says about checkpoints, on their pages in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.pages.descriptions import NOTE, note_tag
from rlready.registry.mlflow_store.record_tags import (
    RANKED_ALIAS,
    TAG,
    ModelRow,
    ranked_tags,
    read_checkpoint,
    read_tag,
    stored_checkpoints,
)
from rlready.registry.readiness_tag import ReadinessTag, says_the_same

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore


def put_pages(
    store: MlflowStore, tags: Sequence[ReadinessTag], aliases: Mapping[str, str] | None = None
) -> int:
    """Write a ranking onto the pages of its checkpoints; return the number of changed pages.

    A page shows the verdict first. A page that already says the same is not written again, and a
    description that a person wrote stays. An evaluation that is stored at the same moment may
    leave a page without its numbers until the next ranking; the numbers themselves are not touched.

    Args:
        store: the registry.
        tags: what the ranking says about each checkpoint.
        aliases: address of the alias by id of the checkpoint; others have none. None: the pages
            keep what they say about aliases.

    Raises:
        StoreError: if the registry cannot be written; the same call may be repeated.

    Example:
        >>> put_pages(store, tags), put_pages(store, tags)
        (2, 0)
    """
    with store.opened("writing a ranking onto pages", write=True) as opened:
        models: dict[str, list[ModelRow]] = {}
        for row in opened.rows([tag.checkpoint_id for tag in tags], whole=True) if tags else []:
            if row.is_ready:
                models.setdefault(read_checkpoint(row.tags).id, []).append(row)
        n_changed = 0
        for tag in tags:
            rows = models.get(tag.checkpoint_id)
            if not rows:  # deleted after it was ranked
                continue
            present = rows[0].tags
            alias = present.get(RANKED_ALIAS, "")
            if aliases is not None:
                alias = aliases.get(tag.checkpoint_id, "")
            page = _page(rows, tag, alias)
            read_back = {key: page[key] for key in (TAG, RANKED_ALIAS, NOTE) if key in page}
            if any(present.get(key, "") != value for key, value in read_back.items()):
                opened.client.set_logged_model_tags(rows[0].model_id, page)
                n_changed += 1
        return n_changed


def _page(rows: Sequence[ModelRow], tag: ReadinessTag, alias: str) -> dict[str, str]:
    """Return the tags of a checkpoint's first model with which its page shows this verdict."""
    present = rows[0].tags
    try:
        earlier = read_tag(present)
    except StoreError:  # edited by hand
        earlier = None
    if earlier is not None and says_the_same(earlier, tag):
        tag = earlier  # only the time is new
    tags = ranked_tags(tag, alias)
    (stored,) = stored_checkpoints(rows)
    after = {**present, **tags}
    return {**tags, **note_tag(stored.checkpoint, stored.proxies, after, stored.outcomes)}


__all__ = ["put_pages"]
