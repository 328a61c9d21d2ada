"""Content digests: the ids of records, benchmarks and weights.

An id is the first 32 hexadecimal digits (128 bits) of a SHA-256. MLflow takes 36 characters at
most for a dataset's digest, and 128 bits leave no room for an accidental collision.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object
from rlready.registry.whole_file import replacing

DIGEST_LENGTH = 32
"""Hexadecimal digits of an id."""

# These decide which tokens a checkpoint draws. Optimizer states and logs may lie beside them.
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# These say where an adapter was made, not what it computes.
_VOLATILE_ADAPTER_KEYS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
)
# Every `save_pretrained` rewrites these keys, which do not change what the weights compute.
_VOLATILE_CONFIG_KEYS = ("_name_or_path", "transformers_version")


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value: keys sorted, no spaces.

    A NaN or an infinity raises ValueError, a type that JSON does not have TypeError.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object) -> str:
    """Return the id of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGEST_LENGTH]


def file_sha256(path: Path, cache_dir: Path | None = None) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Digests are remembered in `cache_dir` by (path, size, modification time), so that the weights
    of a large model are read once. None reads the file every time. An entry with a wrong checksum,
    or without one, is ignored.
    """
    key = file_key(path)
    entry = None if cache_dir is None else cache_dir / f"{key}.sha256"
    if entry is not None and entry.is_file():
        remembered, _, checksum = entry.read_text(errors="replace").partition(" ")
        if checksum == digest([key, remembered]):
            return remembered
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if entry is not None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with replacing(entry) as temporary:
            temporary.write_text(f"{sha256} {digest([key, sha256])}")
    return sha256


def file_key(path: Path) -> str:
    """Return an id of a file's path, size and modification time."""
    status = path.stat()
    return digest([str(path.resolve()), status.st_size, status.st_mtime_ns])


def default_cache_dir() -> Path:
    """Return the folder of remembered digests, in `$XDG_CACHE_HOME` or else in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "rlready" / "digests"


def fingerprint(folder: Path, cache_dir: Path | None = None) -> str:
    """Return the id of a checkpoint's weights, tokenizer, and the configuration that matters.

    Two folders with the same fingerprint draw the same samples. The fingerprint does not change
    when the folder is copied or moved, when optimizer states are added, or when another version of
    transformers saves the same weights.

    Raises:
        CheckpointError: if the folder has no `config.json` or no safetensors weights.
    """
    config = folder / "config.json"
    weights = sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        missing = "config.json" if not config.is_file() else "*.safetensors"
        raise CheckpointError(
            f"{folder} is not a checkpoint", why=f"it holds no {missing}", fix="Name its folder"
        )
    names = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    content: dict[str, str] = {
        path.name: file_sha256(path, cache_dir) for path in (*weights, *names)
    }
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.is_file():
            content[name] = digest(_stable_config(path))
    return digest(content)


def adapter_fingerprint(folder: Path, base: str, cache_dir: Path | None = None) -> str:
    """Return the id of an adapter on a base model: of its factors, settings and tokenizer.

    Args:
        folder: folder of the adapter.
        base: fingerprint of its base model; the same adapter on another one is another checkpoint.
        cache_dir: as in `file_sha256`.
    """
    names = ["adapter_model.safetensors", *_TOKENIZER_FILES]
    content = {
        name: file_sha256(folder / name, cache_dir) for name in names if (folder / name).is_file()
    }
    settings = read_json_object(folder / "adapter_config.json", CheckpointError, constant=str)
    stable = {key: value for key, value in settings.items() if key not in _VOLATILE_ADAPTER_KEYS}
    return digest({**content, "adapter_config.json": digest(stable), "base": base})


def _stable_config(path: Path) -> Mapping[str, Any]:
    # A limit of `Infinity` is in the configuration of some models; JSON has no such number.
    config = read_json_object(path, CheckpointError, fix="Save the checkpoint again", constant=str)
    return {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
