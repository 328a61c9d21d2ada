from .benchmarks.problems import Benchmark, load_benchmark, load_suite
from .checkpoints.folder import load_model, load_tokenizer, open_weights
from .heldout.examples import HeldoutExample, HeldoutForm, HeldoutSet, load_heldout
from .heldout.loss import ExampleLoss, heldout_proxies, token_losses
from .metrics.coverage import coverage_ratio
from .metrics.estimates import Estimate
from .metrics.off_policy import off_policy_proxies
from .metrics.pass_at_k import ProblemCounts, mean_pass_at_k, pass_at_k
from .metrics.proxies import sample_proxies
from .metrics.weight_drift import weight_change, weight_proxies
from .sampling.hf import HfSampler
from .sampling.ray import RaySampler
from .sampling.sample_files import SampleFolder
from .sampling.sampler import Draw, Sampler
from .sampling.server import ServerSampler
from .sampling.vllm import VllmSampler
from .verification.verifier import Verifier

__all__ = [
    "Benchmark",
    "Draw",
    "Estimate",
    "ExampleLoss",
    "HeldoutExample",
    "HeldoutForm",
    "HeldoutSet",
    "HfSampler",
    "ProblemCounts",
    "RaySampler",
    "SampleFolder",
    "Sampler",
    "ServerSampler",
    "Verifier",
    "VllmSampler",
    "coverage_ratio",
    "heldout_proxies",
    "load_benchmark",
    "load_heldout",
    "load_model",
    "load_suite",
    "load_tokenizer",
    "mean_pass_at_k",
    "off_policy_proxies",
    "open_weights",
    "pass_at_k",
    "sample_proxies",
    "token_losses",
    "weight_change",
    "weight_proxies",
]
