"""Registered models of MLflow: one version per model, aliases, and references to versions.

MLflow registers any model, even a half-written one, creates a new version at each call, and lists
versions without their aliases. This module adds what `readiness` and `predictors/store` need beyond
that. A version's source is `models:/<model id>`, so nothing is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import StoreError
from rlready.registry.foreign_files import parse_json
from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.mlflow_calls import EXISTS, MISSING, or_none
from rlready.registry.mlflow_store.pages.descriptions import SIGNATURE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_SOURCE = "models:/"
_CLAIM = "rlready-claim-"
_PAGE = 1000
_NAMED = 8  # names that a message lists
_VERSIONS = "mlflow.modelVersions"
_TRACKING_URI = "MLFLOW_TRACKING_URI"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model: its number from 1 on, and the description on its page."""

    name: str
    number: int
    source: str
    tags: Mapping[str, str]
    description: str = ""

    @property
    def uri(self) -> str:
        """Reference for MLflow and `rlready resolve`."""
        return f"{_SOURCE}{self.name}/{self.number}"

    @property
    def model_id(self) -> str | None:
        """The LoggedModel of the version; None if it was made from files."""
        id_ = self.source.removeprefix(_SOURCE)
        return id_ if id_ != self.source and "/" not in id_ else None


def safe_name(text: str) -> str:
    """Return a registered model's name that needs no quoting in a URI or a shell."""
    return _UNSAFE.sub("-", text).strip("-.")[:200]


def checked_name(name: str) -> str:
    """Return the name; raise StoreError unless MLflow and references accept it."""
    if name and not _UNSAFE.search(name) and name.strip("."):
        return name
    raise StoreError(
        f"{name!r} is not a name for a registered model",
        why="it is part of references such as models:/NAME@ALIAS",
        fix="Use letters, digits, '.', '_' and '-' only",
    )


def registered(client: MlflowClient, name: str) -> Any | None:
    """Return MLflow's registered model with its tags and aliases; None if it does not exist."""
    return or_none(MISSING, client.get_registered_model, name)


def ensure_registered(
    client: MlflowClient, name: str, tags: Mapping[str, str], description: str
) -> None:
    """Create a registered model unless it exists; an existing one is not changed."""
    create = client.create_registered_model
    or_none(EXISTS, create, name, tags=dict(tags), description=description)


def versions_of(client: MlflowClient, name: str, source: str | None = None) -> list[Version]:
    """Return the versions of a registered model, the oldest first; all, or those of one source."""
    query = f"name = '{name}'" + (f" AND source_path = '{source}'" if source else "")
    versions, token = [], None
    while True:
        page = client.search_model_versions(query, max_results=_PAGE, page_token=token)
        versions += [_version(each) for each in page]
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: version.number)


def find_or_create(
    opened: Opened, name: str, model_id: str, tags: Mapping[str, str], description: str
) -> tuple[Version, bool]:
    """Return the version of a model and whether this call created it; parallel callers create one.

    The caller has created the registered model, and checked that the LoggedModel is READY, which
    MLflow does not check. A new version gets tags and description in one transaction.
    """
    source = _SOURCE + model_id
    with opened.lock(model_id):
        versions = versions_of(opened.client, name, source)
        if versions:
            return versions[0], False
        with _tracking_at(opened.client.tracking_uri):
            version = _version(
                opened.client.create_model_version(
                    name,
                    source=source,
                    tags=dict(tags),
                    description=description,
                    model_id=model_id,
                    await_creation_for=0,  # there are no files to wait for
                )
            )
        _link(opened.client, model_id, version)
        return version, True


def update(client: MlflowClient, version: Version, tags: Mapping[str, str], text: str) -> bool:
    """Update tags and description of a version; return whether anything changed.

    Only differences are written, because every write is an event for webhooks. A description that a
    person has written stays.
    """
    changes = {key: value for key, value in tags.items() if version.tags.get(key) != value}
    for key, value in changes.items():
        client.set_model_version_tag(version.name, str(version.number), key, value)
    is_ours = not version.description or SIGNATURE in version.description
    is_new_text = is_ours and text != version.description
    if is_new_text:
        client.update_model_version(version.name, str(version.number), description=text)
    return bool(changes) or is_new_text


def update_family(client: MlflowClient, name: str, text: str) -> None:
    """Update a registered model's description, unless a person wrote it."""
    model = registered(client, name)
    present = "" if model is None else model.description or ""
    if text != present and (not present or SIGNATURE in present):
        client.update_registered_model(name, description=text)


def locate(client: MlflowClient, reference: str, default_alias: str) -> Version:
    """Return the version that a reference names; a StoreError lists the existing ones.

    A reference is `models:/NAME@ALIAS`, `models:/NAME/3`, or NAME alone, which means the default
    alias, or else the only alias or version. `models:/` may be left out.
    """
    name, alias, number = _parse(reference)
    model = registered(client, name)
    if model is None:
        raise _unknown_name(client, name, reference)
    aliases = {str(key): int(value) for key, value in (model.aliases or {}).items()}
    if alias is not None and alias not in aliases:
        raise _unknown_version(client, name, aliases, f"{name} has no alias {alias!r}")
    if alias is not None:
        number = aliases[alias]
    elif number is None:
        number = _only(client, name, aliases, default_alias)
    version = or_none(MISSING, client.get_model_version, name, str(number))
    if version is None:
        raise _unknown_version(client, name, aliases, f"{name} has no version {number}")
    return _version(version)


def aliases_of(client: MlflowClient, version: Version) -> tuple[str, ...]:
    """Return the aliases of a version."""
    model = registered(client, version.name)
    aliases = {} if model is None else model.aliases or {}
    return tuple(sorted(key for key, value in aliases.items() if int(value) == version.number))


def logged_model(client: MlflowClient, version: Version) -> LoggedModel | None:
    """Return the model of a version; None if the version was made from files.

    Raises:
        StoreError: if the model was deleted, or was never completed.
    """
    if version.model_id is None:
        return None
    model = or_none(MISSING, client.get_logged_model, version.model_id)
    if model is None:
        raise StoreError(
            f"{version.uri} leads nowhere",
            why=f"its model {version.model_id} was deleted",
            fix=f"Name another version of {version.name}, and delete this one",
        )
    if str(model.status) != "READY":
        raise not_ready(version.uri, version.model_id, str(model.status))
    return model


def not_ready(what: str, model_id: str, status: str) -> StoreError:
    """Return the error for a model that was never completed, which MLflow does not check."""
    return StoreError(
        f"{what} is not complete: its model {model_id} is {status}",
        why="the call that stores it was killed or is still running",
        fix="Repeat that call (rlready evaluate, rlready fit), which completes it",
    )


@contextlib.contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """Make MLflow look up models in this registry.

    A database store looks up the source of a version by the process-wide tracking URI, whatever URI
    the client has (3.17). Keep the block short: other threads would log to this registry meanwhile.
    """
    import mlflow

    if mlflow.get_tracking_uri() == uri or uri.startswith(("http://", "https://")):
        yield
        return
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    before = os.environ.get(_TRACKING_URI)
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        if before is not None:  # MLflow sets the variable too, and unsets it at the end
            os.environ[_TRACKING_URI] = before


def _link(client: MlflowClient, model_id: str, version: Version) -> None:
    """Show the version on the model's page, as MLflow's server and its `register_model` do."""
    text = client.get_logged_model(model_id).tags.get(_VERSIONS)
    try:
        entries = parse_json(text) if text else []
        linked = [(entry["name"], int(entry["version"])) for entry in entries]
    except (ValueError, TypeError, KeyError):  # edited by hand: only links on the page are lost
        entries, linked = [], []
    if (version.name, version.number) not in linked:
        entries.append({"name": version.name, "version": version.number})
        client.set_logged_model_tags(model_id, {_VERSIONS: json.dumps(entries)})


def _version(version: Any) -> Version:
    return Version(
        name=str(version.name),
        number=int(version.version),  # a text over HTTP
        source=str(version.source),
        tags=dict(version.tags or {}),
        description=str(version.description or ""),
    )


def _parse(reference: str) -> tuple[str, str | None, int | None]:
    """Return name, alias and number of a reference; at most one of the last two is given."""
    text = reference.removeprefix(_SOURCE).strip("/")
    name, at, alias = text.rpartition("@")
    if at and alias and "/" not in text:
        return name, alias, None
    name, slash, number = text.partition("/")
    if slash and number.isdecimal():
        return name, None, int(number)
    if name and not slash and ":" not in name:
        return name, None, None
    raise StoreError(
        f"{reference!r} is not a reference to a registered model",
        fix="Write models:/NAME@ALIAS, models:/NAME/VERSION, or NAME",
    )


def _only(client: MlflowClient, name: str, aliases: Mapping[str, int], default: str) -> int:
    if default in aliases:
        return aliases[default]
    numbers = set(aliases.values()) or {each.number for each in versions_of(client, name)}
    if len(numbers) == 1:
        return numbers.pop()
    raise _unknown_version(client, name, aliases, f"{name} alone does not name one version")


def _unknown_name(client: MlflowClient, name: str, reference: str) -> StoreError:
    models = client.search_registered_models(max_results=_PAGE)
    others = [m for m in models if not m.name.startswith(_CLAIM)]
    names = [m.name + "".join(f" @{alias}" for alias in sorted(m.aliases or {})) for m in others]
    return StoreError(
        f"no registered model {name!r}, which {reference!r} names",
        why=f"there are {len(names)}: {_some(names)}" if names else "there is none",
        fix="`rlready tag` registers checkpoints, `rlready fit` a predictor",
    )


def _unknown_version(
    client: MlflowClient, name: str, aliases: Mapping[str, int], what: str
) -> StoreError:
    numbers = [str(version.number) for version in versions_of(client, name)]
    numbered = [f"@{alias} (version {number})" for alias, number in sorted(aliases.items())]
    return StoreError(
        what,
        why=f"its aliases: {_some(numbered) or 'none'}; its versions: {_some(numbers) or 'none'}",
        fix="Name one of them: models:/NAME@ALIAS or models:/NAME/VERSION",
    )


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
