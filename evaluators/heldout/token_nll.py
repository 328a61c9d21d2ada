"""Negative log-likelihoods of single tokens, without ever making the full logits.

Examples share forward passes in one of three layouts, and the model's own head gets the hidden
states of scored positions only, some rows at a time. Not every model allows this. `choose_scorer`
therefore compares each layout with the plain forward pass on a few short pieces, and takes the
fastest one that gives the same losses:

    PACKED   one row, position ids that restart, no mask and no cache. transformers then keeps the
             examples apart in attention layers; with a mask or a cache it silently does not, and
             state-space layers never do.
    PADDED   a row per example, padded on the right, where causal layers never look.
    SINGLE   a forward pass per example.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

_N_PROBES = 3
_PROBE_TOKENS = 32
# How far rounding may move tokens on average, as a share of 1 + NLL, when sums change their shape.
_TOLERANCE_FLOAT32 = 1e-4
_TOLERANCE_HALF = 3e-2
# How far another neighbouring text may move a token, in the same units and in any precision.
_LEAK = 1e-5
# Logits that go through the exponential at a time: 1 MB stays in a core's cache.
_LOGITS_IN_CACHE = 1 << 18


class Layout(Enum):
    """How pieces of text share a forward pass."""

    PACKED = auto()
    PADDED = auto()
    SINGLE = auto()


@dataclass(frozen=True, eq=False)
class Piece:
    """Token ids (int64) and which of them are scored (bool), both (n_tokens,)."""

    token_ids: NDArray[np.int64]
    is_scored: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A way to get token losses from a model, which is in evaluation mode.

    `body` is the part of the model that ends before its head; None runs the whole model for every
    group of rows.
    """

    model: PreTrainedModel
    layout: Layout
    body: Any | None

    def token_nlls(self, pieces: Sequence[Piece], rows: int) -> list[NDArray[np.float32]]:
        """Return -ln p of every piece's scored tokens, nats; `rows` of logits exist at once.

        Call it under `torch.inference_mode()`, and not in two threads with one model.
        """
        return self._measured(pieces, rows, _nll)

    def token_entropies(self, pieces: Sequence[Piece], rows: int) -> list[NDArray[np.float32]]:
        """Return the entropy of the distribution at each scored token, nats; as `token_nlls`."""
        return self._measured(pieces, rows, _entropy)

    def _measured(
        self,
        pieces: Sequence[Piece],
        rows: int,
        measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> list[NDArray[np.float32]]:
        """Return a measurement on the logits and the token at every scored position."""
        import torch

        ids, positions, starts = _arranged(pieces, self.layout)
        scored = [np.flatnonzero(piece.is_scored) for piece in pieces]
        # The logits at t - 1 predict the token at t.
        at = np.concatenate([s + t - 1 for s, t in zip(starts, scored, strict=True)])
        targets = np.concatenate([piece.token_ids[piece.is_scored] for piece in pieces])
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self.model.device)}
        if self.layout is Layout.PACKED:
            inputs["position_ids"] = torch.from_numpy(positions).to(self.model.device)
        logits = self._logits(inputs, torch.from_numpy(at), rows)
        numbers = [
            measure(chunk, torch.from_numpy(targets[k * rows : (k + 1) * rows]).to(chunk.device))
            for k, chunk in enumerate(logits)
        ]
        ends = np.cumsum([len(t) for t in scored])[:-1]
        return np.split(torch.cat(numbers).cpu().numpy(), ends)

    def _logits(
        self, inputs: Mapping[str, torch.Tensor], at: torch.Tensor, rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield logits (<= rows, vocabulary) at the flat positions `at`, group by group."""
        if self.body is None:
            yield from _own_logits(self.model, inputs, at, rows)
            return
        output = self.body(**inputs, use_cache=False, return_dict=True)
        hidden = output.last_hidden_state
        hidden = hidden.flatten(0, 1)[at.to(hidden.device)]
        with _stands_in(self.body, output):
            for chunk in hidden.split(rows):
                output["last_hidden_state"] = chunk[None]
                ids = inputs["input_ids"][:1, :1]
                logits = self.model(input_ids=ids, use_cache=False, return_dict=True).logits[0]
                if len(logits) != len(chunk):
                    raise _NotTheBody
                yield logits


def choose_scorer(model: PreTrainedModel, token_ids: Sequence[NDArray[np.int64]]) -> Scorer:
    """Return the fastest scorer that agrees with the plain forward pass on short pieces.

    The pieces come from the first few of these texts, which have two or more tokens each.
    """
    texts = (list(token_ids[:_N_PROBES]) * _N_PROBES)[:_N_PROBES]
    # Unequal lengths, so that rows are padded.
    probes = [_probe(text[: _PROBE_TOKENS - 5 * i]) for i, text in enumerate(texts)]
    plain = Scorer(model, Layout.SINGLE, None)
    expected = [plain.token_nlls([probe], _PROBE_TOKENS)[0] for probe in probes]
    # The base model usually ends right before the head; OPT calls the decoder inside it.
    modules = [m for m in (model.base_model, model.get_decoder()) if m not in (None, model)]
    body = next((m for m in modules if _feeds_head(model, m, probes, expected)), None)
    if body is None:
        return plain
    packed, padded = Scorer(model, Layout.PACKED, body), Scorer(model, Layout.PADDED, body)
    if _takes(type(body).forward, "position_ids") and _is_right(packed, probes, expected):
        # Rows cannot see each other, so any movement there is rounding, from experts that get
        # other groups of tokens. Without experts it is exactly 0.
        rounding = _moved_by_neighbour(padded, probes)
        if _moved_by_neighbour(packed, probes) <= max(_LEAK, 3 * rounding):
            return packed
    return padded if _is_right(padded, probes, expected) else Scorer(model, Layout.SINGLE, body)


def n_token_ids(model: PreTrainedModel) -> int:
    """Return the number of token ids of the model; its tokenizer may have fewer."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def plan_packs(lengths: Mapping[int, int], layout: Layout, max_tokens: int) -> list[list[int]]:
    """Return the keys of the pieces that share a forward pass, the longest pieces first.

    A pack holds at most `max_tokens` tokens including padding, or one longer piece.
    """
    by_length = sorted(lengths, key=lambda key: (-lengths[key], key))
    if layout is Layout.SINGLE:
        return [[key] for key in by_length]
    if layout is Layout.PACKED:
        return _best_fit(by_length, lengths, max_tokens)
    packs: list[list[int]] = []
    for key in by_length:
        if packs and (len(packs[-1]) + 1) * lengths[packs[-1][0]] <= max_tokens:
            packs[-1].append(key)
        else:
            packs.append([key])
    return packs


def _best_fit(by_length: list[int], lengths: Mapping[int, int], max_tokens: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # Sorted: tokens left, pack.
    for key in by_length:
        fits = bisect_left(room, (lengths[key], -1))
        if fits < len(room):
            left, pack = room.pop(fits)
            packs[pack].append(key)
        else:
            left, pack = max_tokens, len(packs)
            packs.append([key])
        insort(room, (left - lengths[key], pack))
    return packs


def _arranged(
    pieces: Sequence[Piece], layout: Layout
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids and positions (rows, columns), and each piece's start in the flat ids."""
    lengths = np.array([len(piece.token_ids) for piece in pieces])
    if layout is Layout.PACKED:
        ids = np.concatenate([piece.token_ids for piece in pieces])
        positions = np.concatenate([np.arange(n) for n in lengths])
        return ids[None], positions[None], np.cumsum(lengths) - lengths
    width = int(lengths.max())
    ids = np.zeros((len(pieces), width), dtype=np.int64)
    for row, piece in zip(ids, pieces, strict=True):
        row[: len(piece.token_ids)] = piece.token_ids
    return ids, np.broadcast_to(np.arange(width), ids.shape), np.arange(len(pieces)) * width


def _own_logits(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], at: torch.Tensor, rows: int
) -> Iterator[torch.Tensor]:
    """Yield logits of one row of tokens from whole forward passes, one for each group."""
    if not _takes(type(model).forward, "logits_to_keep"):
        logits = model(**inputs, use_cache=False, return_dict=True).logits[0]
        yield from logits[at.to(logits.device)].split(rows)
        return
    for keep in at.to(inputs["input_ids"].device).split(rows):
        yield model(**inputs, use_cache=False, return_dict=True, logits_to_keep=keep).logits[0]


@contextmanager
def _stands_in(body: Any, output: Any) -> Iterator[None]:
    """Make the body answer every call with `output` inside the block.

    The model's own forward pass then runs its head alone, including the scaling and capping of
    logits that Cohere, Granite, Gemma and others do there.
    """
    before = body.__dict__.get("forward")  # accelerate sets a function of its own
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -ln softmax(logits)[target] by row, in float32; overwrites the logits."""
    import torch

    nlls = []
    step = max(1, _LOGITS_IN_CACHE // logits.shape[-1]) if logits.device.type == "cpu" else None
    for rows, target in zip(
        logits.split(step or len(logits)), targets.split(step or len(logits)), strict=True
    ):
        # In place: a second array of this size would double the peak.
        wide = rows.float()
        top = wide.amax(-1, keepdim=True)
        chosen = wide.gather(-1, target[:, None]) - top
        nlls.append(wide.sub_(top).exp_().sum(-1).log() - chosen[:, 0])
    return torch.cat(nlls)


def _entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the entropy of softmax(logits) by row, in float32; the targets are not used."""
    import torch

    step = max(1, _LOGITS_IN_CACHE // logits.shape[-1]) if logits.device.type == "cpu" else None
    entropies = []
    for rows in logits.split(step or len(logits)):
        wide = rows.float()
        wide = (wide - wide.amax(-1, keepdim=True)).clamp(min=-1e30)
        weights = wide.exp()
        total = weights.sum(-1)
        entropies.append(total.log() - weights.mul_(wide).sum(-1) / total)
    return torch.cat(entropies)


class _NotTheBody(Exception):
    """The model's forward pass does not take its hidden states from this module."""


def _feeds_head(
    model: PreTrainedModel,
    body: Any,
    probes: Sequence[Piece],
    expected: Sequence[NDArray[np.float32]],
) -> bool:
    scorer = Scorer(model, Layout.SINGLE, body)
    try:
        # Groups of 7 rows: like the later ones, they are not all of one size.
        nlls = [scorer.token_nlls([probe], 7)[0] for probe in probes]
    except _NotTheBody:
        return False
    return bool(_deviations(nlls, expected).mean() <= _tolerance(model))


def _is_right(
    scorer: Scorer, probes: Sequence[Piece], expected: Sequence[NDArray[np.float32]]
) -> bool:
    nlls = scorer.token_nlls(probes, _PROBE_TOKENS)
    return bool(_deviations(nlls, expected).mean() <= _tolerance(scorer.model))


def _moved_by_neighbour(scorer: Scorer, probes: Sequence[Piece]) -> float:
    """Return how far any token moves at most when the tokens of the first piece change.

    This finds leaks that a comparison with single passes can miss, because they are smaller than
    the rounding of half precision.
    """
    changed = [_probe((probes[0].token_ids + 1) % n_token_ids(scorer.model)), *probes[1:]]
    before, after = (scorer.token_nlls(pieces, _PROBE_TOKENS) for pieces in (probes, changed))
    return float(_deviations(after[1:], before[1:]).max())


def _tolerance(model: PreTrainedModel) -> float:
    import torch

    is_wide = model.dtype in (torch.float32, torch.float64)
    return _TOLERANCE_FLOAT32 if is_wide else _TOLERANCE_HALF


def _probe(token_ids: NDArray[np.int64]) -> Piece:
    return Piece(token_ids, np.arange(len(token_ids)) > 0)


def _deviations(
    nlls: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> NDArray[np.float64]:
    a, b = np.concatenate(nlls).astype(np.float64), np.concatenate(expected).astype(np.float64)
    # A broken model gives NaN in both. The error comes later, where the example can be named.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(a - b) / (1 + np.abs(b)))


def _takes(function: Any, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters
