r"""LoRA adapters: what is read of them, and the checks that need neither torch nor peft.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, as peft and TRL
write it. It changes linear layers of a base model:

    W = W_0 + scaling * B A        A: (rank, inputs), B: (outputs, rank)          [LoRA]
    W = m * (W_0 + scaling * B A) / ||W_0 + scaling * B A||   norms over inputs   [DoRA]

with scaling = alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732). Whole modules may
be saved beside the factors (`modules_to_save`).

Only LoRA is read, because every other type would need its own formulas and tests. Settings of peft
that change what the adapter computes, and that are not tested here, are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.weight_errors import count, first_names, natural, shape_text
from rlready.evaluators.checkpoints.weight_files import (
    TensorHeader,
    check_finite_files,
    file_headers,
    zero_tensors,
)
from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

MERGE = "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)"
"""How to make a whole model of any adapter."""

_MERGE_IT = f"Merge it, and evaluate the whole model: {MERGE}"
_AGAIN = "Copy or download the folder again"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a folder with a tokenizer has at least one."""

_READ = frozenset(
    (
        *("r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out"),
        *("use_rslora", "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"),
        *("layers_to_transform", "layers_pattern"),
    )
)
"""Settings of `peft.LoraConfig` that are passed on."""

_NO_MATTER = frozenset(
    (
        *("peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version"),
        *("inference_mode", "auto_mapping", "init_lora_weights", "eva_config", "corda_config"),
        *("loftq_config", "lora_ga_config", "runtime_config", "megatron_core"),
        *("qalora_group_size", "bias"),
    )
)
"""Settings without effect on a finished adapter, and those that are checked one by one."""

_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model as it is; PiSSA and others change it."""

_FRONT = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
_TIED = re.compile(r"(^|\.)(lm_head|embed_out|embed_tokens|wte|embed_in|word_embeddings)$")


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The change of one linear layer.

    Args:
        base_name: name of the layer's weight in the base model's files.
        a: name of A, (rank, inputs), in the adapter's file.
        b: name of B, (outputs, rank).
        magnitude: name of DoRA's m, (outputs,); None for LoRA.
        scaling: factor of B A.
        is_transposed: whether the files hold W_0 as (inputs, outputs), as GPT-2's do.
    """

    base_name: str
    a: str
    b: str
    magnitude: str | None
    scaling: float
    is_transposed: bool


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter that passed the checks.

    Args:
        path: its folder.
        config: the settings of `peft.LoraConfig` that matter, JSON values.
        base_reference: the base model that the folder names, `org/name@revision` or a path.
        has_tokenizer: whether the folder holds a tokenizer, which is then used instead of the base
            model's.
        max_rank: the largest rank of its factors.
        headers: headers of its tensors, by name.

    Example:
        >>> read_adapter(Path("runs/lora/checkpoint-500")).max_rank
        16
    """

    path: Path
    config: Mapping[str, Any]
    base_reference: str | None
    has_tokenizer: bool
    max_rank: int
    headers: Mapping[str, TensorHeader]

    @property
    def file(self) -> Path:
        """The safetensors file of the factors."""
        return self.path / WEIGHTS_FILE

    @property
    def is_plain(self) -> bool:
        """Whether it is LoRA without magnitudes and saved modules, which all engines can apply."""
        return not self.config.get("use_dora") and not self.config.get("modules_to_save")

    def low_rank(self, base_headers: Mapping[str, TensorHeader]) -> list[LowRank]:
        """Return the changes of all linear layers.

        Args:
            base_headers: headers of the base model's tensors.

        Raises:
            CheckpointError: if the base model lacks a layer, or has it in another shape.
        """
        changes = []
        for name in sorted(self.headers, key=natural):
            match = _PART.fullmatch(name)
            if match is None or match["part"] != "lora_A":
                continue
            b = name.replace(".lora_A", ".lora_B")
            module = match["module"].removeprefix(_FRONT)
            base_name = self._base_name(f"{module}.weight", base_headers)
            (rank, n_in), (n_out, _) = self.headers[name].shape, self.headers[b].shape
            wanted, shape = (n_out, n_in), base_headers[base_name].shape
            if shape not in (wanted, wanted[::-1]):
                raise self._shape_error(base_name, shape, wanted)
            is_square = n_in == n_out
            changes.append(
                LowRank(
                    base_name=base_name,
                    a=name,
                    b=b,
                    magnitude=self._magnitude(match["module"]),
                    scaling=self._scaling(module, rank),
                    is_transposed=shape != wanted
                    or (is_square and bool(self.config.get("fan_in_fan_out"))),
                )
            )
        return changes

    def saved(self, base_headers: Mapping[str, TensorHeader]) -> dict[str, str]:
        """Return the tensors that replace the base model's: its names, and those in this file.

        Raises:
            CheckpointError: if the base model lacks one, or has it in another shape.
        """
        names = {}
        for name in sorted(self.headers, key=natural):
            if _PART.fullmatch(name) is None:
                base_name = self._base_name(name.removeprefix(_FRONT), base_headers)
                if base_headers[base_name].shape != self.headers[name].shape:
                    raise self._shape_error(
                        base_name, base_headers[base_name].shape, self.headers[name].shape
                    )
                names[base_name] = name
        return names

    def check_base(self, base: Path, base_headers: Mapping[str, TensorHeader]) -> None:
        """Check that the adapter's tensors fit the tensors of a base model; reads headers only.

        Raises:
            CheckpointError: naming a tensor that the base model lacks or has in another shape.
        """
        changed = {change.base_name for change in self.low_rank(base_headers)}
        changed |= set(self.saved(base_headers))
        config = read_json_object(base / "config.json", CheckpointError, constant=str)
        is_tied = bool(config.get("tie_word_embeddings")) or not any(
            name.endswith(("lm_head.weight", "embed_out.weight")) for name in base_headers
        )
        tied = [name for name in changed if _TIED.search(name.removesuffix(".weight"))]
        if is_tied and tied:
            raise CheckpointError(
                f"{self.path} changes {first_names(sorted(tied))}",
                why="its base model ties the embedding to the head, and the libraries disagree "
                "about what such an adapter computes (peft issue 2777)",
                fix=_MERGE_IT,
            )

    def _scaling(self, module: str, rank: int) -> float:
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _magnitude(self, module: str) -> str | None:
        names = (f"{module}.lora_magnitude_vector", f"{module}.lora_magnitude_vector.weight")
        return next((name for name in names if name in self.headers), None)

    def _base_name(self, name: str, base_headers: Collection[str]) -> str:
        """Return the name of a tensor in the base model's files, which may lack its first part."""
        short = name.partition(".")[2]
        found = name if name in base_headers else short
        if found not in base_headers:
            raise CheckpointError(
                f"{self.path} changes {name}, which its base model does not have",
                why="the adapter was trained on another model",
                fix="Name the model that it was trained on: --base FOLDER",
            )
        return found

    def _shape_error(
        self, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]
    ) -> CheckpointError:
        return CheckpointError(
            f"tensor {name} of the base model has the shape {shape_text(shape)}, and {self.path} "
            f"changes one of {shape_text(wanted)}",
            why="the adapter was trained on a model of another size or vocabulary",
            fix="Name the model that it was trained on: --base FOLDER. If tokens were added for "
            f"training, merge it: {MERGE}",
        )


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter's configuration."""
    return (folder / CONFIG_FILE).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read and check an adapter's configuration and the headers of its tensors.

    Raises:
        CheckpointError: if a file is missing, pickled or damaged, or the adapter is of a type or
            has settings that are not read.
    """
    raw = read_json_object(folder / CONFIG_FILE, CheckpointError, fix=_AGAIN, constant=str)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder} holds an adapter of type {kind!r}",
            why="only LoRA is read (also rsLoRA and DoRA), since every type has its own formulas",
            fix=_MERGE_IT,
        )
    _check_settings(folder, raw)
    _check_files(folder)
    headers = file_headers(folder / WEIGHTS_FILE)
    if not headers:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} holds no tensor",
            why="saving was cut short, or the process that saved held no weights (FSDP, DeepSpeed)",
            fix="Save the adapter again, or take another checkpoint",
        )
    base = raw.get("base_model_name_or_path")
    revision = raw.get("revision")
    reference = base if isinstance(base, str) and base else None
    if reference and isinstance(revision, str) and revision and not Path(reference).is_dir():
        reference = f"{reference}@{revision}"
    return Adapter(
        path=folder,
        config={key: raw[key] for key in sorted(_READ & raw.keys())},
        base_reference=reference,
        has_tokenizer=any((folder / name).is_file() for name in TOKENIZERS),
        max_rank=_checked_ranks(folder, raw, headers),
        headers=headers,
    )


def check_contents(adapter: Adapter, cache_dir: Path | None = None) -> None:
    """Check that the adapter's numbers are finite and change something; needs no torch.

    Raises:
        CheckpointError: for a tensor that is not finite, and for an adapter in which A or B is zero
            in every layer.
    """
    check_finite_files([adapter.file], cache_dir)
    zero = zero_tensors(adapter.file)
    factors = [name for name in adapter.headers if _PART.fullmatch(name)]
    pairs = [name for name in factors if ".lora_A" in name]
    dead = [n for n in pairs if n in zero or n.replace(".lora_A", ".lora_B") in zero]
    if adapter.is_plain and len(dead) == len(pairs):
        which = "B" if dead[0].replace(".lora_A", ".lora_B") in zero else "A"
        raise CheckpointError(
            f"{adapter.path} changes nothing: {which} is zero in all {len(pairs)} layers",
            why="a fresh LoRA adapter starts with B = 0, so it was saved before its first step, or "
            "training did not reach it",
            fix="Take a later checkpoint, or evaluate the base model itself",
        )


def _check_settings(folder: Path, raw: Mapping[str, Any]) -> None:
    start = raw.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{folder} was initialized with init_lora_weights={start!r}",
            why="this changes the base model before training, so the factors alone do not say what "
            "was trained",
            fix="Save it as an ordinary adapter: save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...); or merge it",
        )
    used = sorted(key for key in raw.keys() - _READ - _NO_MATTER if raw[key])
    if raw.get("bias") not in (None, "none"):
        used.append("bias")
    if used:
        raise CheckpointError(
            f"{folder} uses {', '.join(f'{key}={str(raw[key])[:60]}' for key in used[:3])}",
            why="rlready does not read this setting of LoRA, and would measure another model",
            fix=_MERGE_IT,
        )
    alpha, rank = raw.get("lora_alpha"), raw.get("r")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or alpha == 0:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has the rank r={rank!r} and lora_alpha={alpha!r}",
            why="both have to be numbers, the rank 1 or more and lora_alpha not 0",
            fix=_AGAIN,
        )
    for key in ("rank_pattern", "alpha_pattern"):
        values = raw.get(key) or {}
        if not isinstance(values, dict) or not all(
            isinstance(value, int | float) and value for value in values.values()
        ):
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has {key}={str(values)[:60]}",
                why="it has to give a number for each pattern of names",
                fix=_AGAIN,
            )


def _check_files(folder: Path) -> None:
    if (folder / WEIGHTS_FILE).is_file():
        return
    pickles = [name for name in _PICKLES if (folder / name).is_file()]
    if pickles:
        raise CheckpointError(
            f"{folder} holds a pickled adapter only ({pickles[0]})",
            why="loading a pickle can run any code, so it is refused",
            fix="Convert it on a machine that you trust with it: PeftModel.from_pretrained(base, "
            "adapter).save_pretrained(folder) writes adapter_model.safetensors",
        )
    raise CheckpointError(
        f"{folder} lacks {WEIGHTS_FILE}",
        why=f"there is only {CONFIG_FILE}",
        fix=_AGAIN,
    )


def _checked_ranks(
    folder: Path, raw: Mapping[str, Any], headers: Mapping[str, TensorHeader]
) -> int:
    """Return the largest rank; check that every factor has its partner, and the configured rank."""
    ranks = []
    for name, header in headers.items():
        match = _PART.fullmatch(name)
        if match is None:
            if "lora_" in name:
                raise CheckpointError(
                    f"{folder} holds {name}",
                    why="only factors of linear layers are read, not those of embeddings",
                    fix=_MERGE_IT,
                )
            continue
        if match["part"] == "lora_magnitude_vector":
            continue
        other = {"lora_A": "lora_B", "lora_B": "lora_A"}[match["part"]]
        partner = headers.get(name.replace(f".{match['part']}", f".{other}"))
        axis = 0 if match["part"] == "lora_A" else 1
        if partner is None or len(header.shape) != 2 or len(partner.shape) != 2:
            raise CheckpointError(
                f"{folder} holds {name} without a matching {other}",
                why="a layer needs both factors, as matrices",
                fix=_AGAIN,
            )
        module = match["module"].removeprefix(_FRONT)
        rank = _by_pattern(raw.get("rank_pattern"), module, raw["r"])
        if header.shape[axis] != rank or partner.shape[1 - axis] != rank:
            raise CheckpointError(
                f"{name} in {folder} has the shape {shape_text(header.shape)}, and "
                f"{CONFIG_FILE} the rank {rank}",
                why="the two files belong to different adapters",
                fix=_AGAIN,
            )
        ranks.append(int(rank))
    if not ranks:
        raise CheckpointError(
            f"{folder} holds {count(len(headers))}, but no factor of LoRA: "
            f"{first_names(sorted(headers, key=natural))}",
            fix=_AGAIN,
        )
    return max(ranks)


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as peft."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise CheckpointError(
                f"{key!r} in the patterns of {CONFIG_FILE} is not a regular expression",
                why=str(error),
                fix=_AGAIN,
            ) from error
    return default
