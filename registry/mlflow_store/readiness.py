"""RL-ready tags in MLflow's model registry, and the weights that an alias stands for.

A registered model stands for a family: the checkpoints of one base model. Each ranked checkpoint
is one version of it, whose source is the checkpoint's LoggedModel (`models:/m-...`), so that no
weights are copied. The alias `rl-ready` is on the best READY checkpoint of the last ranking that
had no RL run yet.
Storing the same ranking again changes nothing. A version carries these tags:

    rl_ready       true, false or undecided: the tag for automation
    rlready.tag    the `ReadinessTag` as JSON, the only copy that is read back
    rlready.predicted, .interval, .predictor, .checkpoint    shown in MLflow's list of versions

Its description says the same in words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store import registered_models as versions
from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.pages.descriptions import (
    family_description,
    tagged_version_description,
)
from rlready.registry.mlflow_store.record_tags import (
    CHECKPOINT,
    ModelRow,
    printable,
    read_checkpoint,
    read_tag,
    version_tags,
)
from rlready.registry.mlflow_store.registered_models import Version
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.readiness_tag import (
    ALIAS,
    Contender,
    Readiness,
    ReadinessTag,
    choose_alias,
    says_the_same,
)
from rlready.registry.records import Checkpoint

if TYPE_CHECKING:
    from mlflow import MlflowClient

FAMILY = "rlready.family"
"""On a registered model: the base model whose checkpoints its versions are."""


@dataclass(frozen=True, kw_only=True)
class TaggedVersion:
    """The version that a tag was put on, and whether this call created or changed it.

    `uri` is `models:/NAME/VERSION`; None for a version that a dry run would create.
    """

    tag: ReadinessTag
    name: str
    uri: str | None
    is_new: bool
    is_changed: bool


@dataclass(frozen=True, kw_only=True)
class TaggedFamily:
    """The tagged checkpoints of one base model, in the order of the ranking.

    `chosen` is the id of the checkpoint that has the alias afterwards, if any has it; `note` says
    what happened to the alias.
    """

    name: str
    tagged: tuple[TaggedVersion, ...]
    chosen: str | None
    note: str


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """The checkpoint that a reference names, and its tag from the last ranking, if it was ranked.

    `version` is `models:/NAME/VERSION`, with its aliases; `checkpoint.uri` locates the weights.
    """

    checkpoint: Checkpoint
    version: str
    aliases: tuple[str, ...]
    tag: ReadinessTag | None
    model_id: str


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A checkpoint to tag, with its model and family, and whether RL was run from it."""

    tag: ReadinessTag
    checkpoint: Checkpoint
    model_id: str
    base: str
    family: str
    is_spent: bool


def put_tags(
    store: MlflowStore,
    tags: Sequence[ReadinessTag],
    *,
    name: str | None = None,
    spent: Collection[str] = (),
    allow_trained: bool = False,
    dry_run: bool = False,
) -> tuple[TaggedFamily, ...]:
    """Tag the checkpoints of a ranking; return the tagged families.

    Args:
        store: holds the checkpoints.
        tags: of one ranking, the best checkpoint first.
        name: of one registered model for all of them. By default there is one for each base model,
            named after it: `Qwen/Qwen2.5-7B` gives `Qwen2.5-7B-sft`.
        spent: ids of checkpoints that had their RL run. They do not get the alias, which marks
            the checkpoint for the next run.
        allow_trained: let them have it, if no other checkpoint is READY.
        dry_run: return what would happen, and write nothing.

    Raises:
        StoreError: if a checkpoint is not registered or its first put is not complete, if the tags
            are not of one ranking, or if another program's model has a family's name;
            nothing is written then. If the store fails while writing, the same call may be
            repeated.
    """
    _check_one_ranking(tags)
    if name is not None:
        versions.checked_name(name)
    with store.opened("tagging checkpoints", write=not dry_run) as opened:
        families: dict[str, list[_Member]] = {}
        for member in _members(opened, tags, name, spent):
            families.setdefault(member.family, []).append(member)
        for family in families:
            if name is None:
                _check_ours(opened.client, family)
        return tuple(
            _put(opened, family, ranked, allow_trained=allow_trained, dry_run=dry_run)
            for family, ranked in families.items()
        )


def resolve(store: MlflowStore, reference: str) -> ResolvedCheckpoint:
    """Return the checkpoint that a reference names.

    A reference is one of `registered_models.locate`, with the default alias `rl-ready`.

    Raises:
        StoreError: if there is no such version (the message lists them), if it is not a checkpoint
            of rlready, or if the checkpoint was deleted or never completed.
    """
    with store.opened(f"looking for {reference}") as opened:
        client = opened.client
        version = versions.locate(client, reference, ALIAS)
        model = versions.logged_model(client, version)
        if model is None or CHECKPOINT not in model.tags:
            raise StoreError(
                f"{version.uri} is not a checkpoint of rlready",
                why=f"it was made from {printable(version.source)}",
                fix="Name a version that `rlready tag` registered",
            )
        return ResolvedCheckpoint(
            checkpoint=read_checkpoint(model.tags),
            version=version.uri,
            aliases=versions.aliases_of(client, version),
            tag=read_tag(version.tags),
            model_id=model.model_id,
        )


def _check_one_ranking(tags: Sequence[ReadinessTag]) -> None:
    rankings = {tag.ranking for tag in tags}
    if len(rankings) > 1:
        names = "; ".join(" ".join(ranking) for ranking in sorted(rankings)[:3])
        raise StoreError(
            "the tags are not of one ranking",
            why=f"they name several targets, predictors or rules: {names}",
            fix="Tag one ranking at a time",
        )
    ids = [tag.checkpoint_id for tag in tags]
    twice = sorted({id_[:12] for id_ in ids if ids.count(id_) > 1})
    if twice:
        raise StoreError(f"checkpoint {', '.join(twice)} is tagged twice in one ranking")


def _members(
    opened: Opened, tags: Sequence[ReadinessTag], name: str | None, spent: Collection[str]
) -> list[_Member]:
    rows = _ready_rows(opened, [tag.checkpoint_id for tag in tags])
    checkpoints = {id_: read_checkpoint(row.tags) for id_, row in rows.items()}
    bases = _bases(opened, checkpoints)
    return [
        _Member(
            tag=tag,
            checkpoint=checkpoints[tag.checkpoint_id],
            model_id=rows[tag.checkpoint_id].model_id,
            base=bases[tag.checkpoint_id],
            family=name or family_name(bases[tag.checkpoint_id]),
            is_spent=tag.checkpoint_id in spent,
        )
        for tag in tags
    ]


def family_name(base: str) -> str:
    """Return the registered model for checkpoints of a base model (name, id or path)."""
    last = base.rstrip("/").rpartition("/")[2].partition("@")[0]
    return f"{versions.safe_name(last) or 'unnamed'}-sft"


def _ready_rows(opened: Opened, ids: Sequence[str]) -> dict[str, ModelRow]:
    """Return the oldest READY model of each checkpoint.

    MLflow itself would register PENDING and FAILED models without an error.
    """
    rows_by_id: dict[str, list[ModelRow]] = {}
    for row in opened.rows(ids) if ids else []:
        rows_by_id.setdefault(read_checkpoint(row.tags).id, []).append(row)
    ready: dict[str, ModelRow] = {}
    for id_ in ids:
        complete = [row for row in rows_by_id.get(id_, []) if row.is_ready]
        if complete:
            ready[id_] = complete[0]
        elif id_ in rows_by_id:
            raise versions.not_ready(
                f"checkpoint {id_[:12]}", rows_by_id[id_][0].model_id, "not READY"
            )
        else:
            raise StoreError(
                f"checkpoint {id_} is not in the registry",
                fix="Tag checkpoints that `rlready list` shows",
            )
    return ready


def _bases(opened: Opened, checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Return the base model of each checkpoint, from its recipe or from its ancestors."""
    ancestry = dict(checkpoints)
    while True:
        missing = {
            parent
            for checkpoint in ancestry.values()
            if _named_base(checkpoint) is None
            for parent in checkpoint.parents
        } - set(ancestry)
        rows = [row for row in opened.rows(sorted(missing)) if row.is_ready] if missing else []
        if not rows:
            break
        for row in rows:
            ancestor = read_checkpoint(row.tags)
            ancestry[ancestor.id] = ancestor
    return {
        id_: _base(checkpoint, ancestry) or "unknown" for id_, checkpoint in checkpoints.items()
    }


def _named_base(checkpoint: Checkpoint) -> str | None:
    if checkpoint.recipe is not None and checkpoint.recipe.base_model:
        return checkpoint.recipe.base_model
    return checkpoint.name if checkpoint.kind == "base" else None


def _base(checkpoint: Checkpoint, ancestry: Mapping[str, Checkpoint]) -> str | None:
    named = _named_base(checkpoint)
    parents = (ancestry[id_] for id_ in checkpoint.parents if id_ in ancestry)
    return named or next(filter(None, (_base(parent, ancestry) for parent in parents)), None)


def _check_ours(client: MlflowClient, family: str) -> None:
    """Raise a StoreError if a registered model of another program has the family's name."""
    model = versions.registered(client, family)
    if model is not None and FAMILY not in (model.tags or {}):
        raise StoreError(
            f"there is a registered model {family!r} already, which rlready did not make",
            why="its versions would be mixed with the checkpoints",
            fix=f"Give another name (--name {family}-rlready), or this one (--name {family}) to "
            "mix them all the same",
        )


def _put(
    opened: Opened,
    family: str,
    members: Sequence[_Member],
    *,
    allow_trained: bool,
    dry_run: bool,
) -> TaggedFamily:
    """Tag the members of a family; a dry run only says what would change."""
    client = opened.client
    if not dry_run:
        versions.ensure_registered(client, family, {FAMILY: members[0].base}, "")
    # Of two versions of one model the older one stays.
    newest_first = reversed(versions.versions_of(client, family))
    present = {version.model_id: version for version in newest_first if version.model_id}
    # The best one last: MLflow lists the newest version first.
    placed = [_place(opened, m, present.get(m.model_id), dry_run) for m in reversed(members)][::-1]
    if dry_run:
        chosen, note = _choose(members, _aliased(client, family), allow_trained)
    else:
        numbers = {
            member.checkpoint.id: version.number
            for member, (version, *_) in zip(members, placed, strict=True)
            if version is not None
        }
        with opened.lock(f"alias-{family}"):
            aliased = _aliased(client, family)
            chosen, note = _choose(members, aliased, allow_trained)
            if chosen is None and aliased is not None:
                client.delete_registered_model_alias(family, ALIAS)
            elif chosen in numbers and (aliased is None or aliased.number != numbers[chosen]):
                client.set_registered_model_alias(family, ALIAS, str(numbers[chosen]))
        ranked = [(numbers[m.checkpoint.id], m.checkpoint.name, m.tag) for m in members]
        versions.update_family(client, family, family_description(members[0].base, ranked))
    tagged = tuple(
        TaggedVersion(
            tag=member.tag,
            name=member.checkpoint.name,
            uri=None if version is None else version.uri,
            is_new=is_new,
            is_changed=is_changed,
        )
        for member, (version, is_new, is_changed) in zip(members, placed, strict=True)
    )
    return TaggedFamily(name=family, tagged=tagged, chosen=chosen, note=note)


def _place(
    opened: Opened, member: _Member, version: Version | None, dry_run: bool
) -> tuple[Version | None, bool, bool]:
    """Return the version of a checkpoint, whether it is new, and whether its content changed."""
    tag, checkpoint = member.tag, member.checkpoint
    if dry_run:
        is_same = version is not None and says_the_same(read_tag(version.tags), tag)
        return version, version is None, not is_same
    tags, text = version_tags(tag, checkpoint), tagged_version_description(tag, checkpoint)
    if version is None:
        version, is_new = versions.find_or_create(
            opened, member.family, member.model_id, tags, text
        )
        if is_new:
            return version, True, True
    earlier = read_tag(version.tags)
    if earlier is not None and says_the_same(earlier, tag):
        # Only the time is new. What a killed call has not written yet follows from the old tag.
        tags = version_tags(earlier, checkpoint)
        text = tagged_version_description(earlier, checkpoint)
    return version, False, versions.update(opened.client, version, tags, text)


def _aliased(client: MlflowClient, family: str) -> Version | None:
    model = versions.registered(client, family)
    aliases = {} if model is None else model.aliases or {}
    return versions.locate(client, f"{family}@{ALIAS}", ALIAS) if ALIAS in aliases else None


def _choose(
    members: Sequence[_Member], present: Version | None, allow_trained: bool
) -> tuple[str | None, str]:
    """Return the id of the checkpoint that should have the alias, and what changes, in words."""
    tag = None if present is None else read_tag(present.tags)
    contenders = [
        Contender(
            id=member.checkpoint.id,
            name=member.checkpoint.name,
            readiness=member.tag.readiness,
            is_trained=member.is_spent,
        )
        for member in members
    ]
    before = tag.checkpoint_id if tag else present.source if present else None
    readiness = tag.readiness if tag else Readiness.READY
    return choose_alias(contenders, before, readiness, allow_trained=allow_trained)
