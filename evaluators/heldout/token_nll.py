"""Negative log-likelihoods of single tokens, without ever making the full logits.

Examples share forward passes in one of three layouts, and the model's own head is fed the hidden
states of scored positions, some rows at a time. Not every model allows this, so `choose_scorer`
tries it on a few short pieces against the plain forward pass and takes the fastest way that is
right:

    PACKED   one row, position ids that restart, no mask and no cache. transformers then keeps the
             examples apart in attention layers; with a mask or a cache it silently does not, and
             state-space layers never do.
    PADDED   a row each, filled up on the right. Causal layers never look there.
    SINGLE   alone.
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
# How far another text in the neighbouring place may move a token in the same units, any precision.
_LEAK = 1e-5
# So many logits at a time go through the exponential: 1 MB stays in a core's cache.
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
    """A way to get token losses from a model.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        layout: how pieces share a forward pass.
        body: the part of the model that ends before its head; None to run the whole model for
            every group of rows.
    """

    model: PreTrainedModel
    layout: Layout
    body: Any | None

    def token_nlls(self, pieces: Sequence[Piece], rows: int) -> list[NDArray[np.float32]]:
        """-ln p of the scored tokens of every piece, nats; `rows` of logits exist at once.

        Call it under `torch.inference_mode()`, and not in two threads with one model.
        """
        return self._measured(pieces, rows, _nll)

    def token_entropies(self, pieces: Sequence[Piece], rows: int) -> list[NDArray[np.float32]]:
        """Entropy of the distribution that each scored token was drawn from, nats; as above."""
        return self._measured(pieces, rows, _entropy)

    def _measured(
        self,
        pieces: Sequence[Piece],
        rows: int,
        measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> list[NDArray[np.float32]]:
        """What is measured on the logits and the token at every scored place."""
        import torch

        ids, positions, starts = _arranged(pieces, self.layout)
        scored = [np.flatnonzero(piece.is_scored) for piece in pieces]
        # What stands at t - 1 predicts the token at t.
        at = np.concatenate([s + t - 1 for s, t in zip(starts, scored, strict=True)])
        targets = np.concatenate([piece.token_ids[piece.is_scored] for piece in pieces])
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self.model.device)}
        if self.layout is Layout.PACKED:
            inputs["position_ids"] = torch.from_numpy(positions).to(self.model.device)
        logits = self._logits(inputs, torch.from_numpy(at), rows)
        found = [
            measure(chunk, torch.from_numpy(targets[k * rows : (k + 1) * rows]).to(chunk.device))
            for k, chunk in enumerate(logits)
        ]
        ends = np.cumsum([len(t) for t in scored])[:-1]
        return np.split(torch.cat(found).cpu().numpy(), ends)

    def _logits(
        self, inputs: Mapping[str, torch.Tensor], at: torch.Tensor, rows: int
    ) -> Iterator[torch.Tensor]:
        """Logits (<= rows, vocabulary) at the flat places `at`, group by group."""
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
    """The fastest way that gives, on short pieces, what the plain forward pass gives.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        token_ids: texts to take the pieces from, two or more tokens each; the first few are used.
    """
    texts = (list(token_ids[:_N_PROBES]) * _N_PROBES)[:_N_PROBES]
    # Unequal lengths, so that rows really are filled up.
    probes = [_probe(text[: _PROBE_TOKENS - 5 * i]) for i, text in enumerate(texts)]
    plain = Scorer(model, Layout.SINGLE, None)
    expected = [plain.token_nlls([probe], _PROBE_TOKENS)[0] for probe in probes]
    body = next((b for b in _bodies(model) if _feeds_head(model, b, probes, expected)), None)
    if body is None:
        return plain
    packed, padded = Scorer(model, Layout.PACKED, body), Scorer(model, Layout.PADDED, body)
    if _takes(type(body).forward, "position_ids") and _is_right(packed, probes, expected):
        # Rows cannot see each other, so what moves there is rounding (experts that get other
        # groups of tokens); without experts it is exactly nothing.
        rounding = _moved_by_neighbour(padded, probes)
        if _moved_by_neighbour(packed, probes) <= max(_LEAK, 3 * rounding):
            return packed
    return padded if _is_right(padded, probes, expected) else Scorer(model, Layout.SINGLE, body)


def n_token_ids(model: PreTrainedModel) -> int:
    """How many token ids the model knows; more than its tokenizer's where rows were padded."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def plan_packs(lengths: Mapping[int, int], layout: Layout, max_tokens: int) -> list[list[int]]:
    """Keys of the pieces that share a forward pass, packs with the longest pieces first.

    A pack holds `max_tokens` at most, padding included, or one longer piece.
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
    """Token ids and positions (rows, columns), and where each piece starts in the flat ids."""
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
    """Logits of one row of tokens from whole forward passes, one for each group of places."""
    if not _takes(type(model).forward, "logits_to_keep"):
        logits = model(**inputs, use_cache=False, return_dict=True).logits[0]
        yield from logits[at.to(logits.device)].split(rows)
        return
    for keep in at.to(inputs["input_ids"].device).split(rows):
        yield model(**inputs, use_cache=False, return_dict=True, logits_to_keep=keep).logits[0]


@contextmanager
def _stands_in(body: Any, output: Any) -> Iterator[None]:
    """While it lasts, the body answers every call with `output`.

    So the model's own forward pass becomes its head alone, with the scaling and capping of logits
    that Cohere, Granite, Gemma and others do there.
    """
    before = body.__dict__.get("forward")  # accelerate puts its own there.
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-ln softmax(logits)[target] by row, in float32 whatever the logits are; overwrites them."""
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
    """Entropy of softmax(logits) by row, in float32; the token that came does not matter."""
    import torch

    step = max(1, _LOGITS_IN_CACHE // logits.shape[-1]) if logits.device.type == "cpu" else None
    found = []
    for rows in logits.split(step or len(logits)):
        wide = rows.float()
        wide = (wide - wide.amax(-1, keepdim=True)).clamp(min=-1e30)
        weights = wide.exp()
        total = weights.sum(-1)
        found.append(total.log() - weights.mul_(wide).sum(-1) / total)
    return torch.cat(found)


class _NotTheBody(Exception):
    """The model's forward pass does not take its hidden states from this module."""


def _bodies(model: PreTrainedModel) -> list[Any]:
    """Modules that may end right before the head; OPT calls the decoder inside its base model."""
    modules = [model.base_model, model.get_decoder()]
    return [module for module in modules if module is not None and module is not model]


def _feeds_head(
    model: PreTrainedModel,
    body: Any,
    probes: Sequence[Piece],
    expected: Sequence[NDArray[np.float32]],
) -> bool:
    scorer = Scorer(model, Layout.SINGLE, body)
    try:
        # In groups, as it will be used; not all of one size.
        found = [scorer.token_nlls([probe], 7)[0] for probe in probes]
    except _NotTheBody:
        return False
    return bool(_deviations(found, expected).mean() <= _tolerance(model))


def _is_right(
    scorer: Scorer, probes: Sequence[Piece], expected: Sequence[NDArray[np.float32]]
) -> bool:
    found = scorer.token_nlls(probes, _PROBE_TOKENS)
    return bool(_deviations(found, expected).mean() <= _tolerance(scorer.model))


def _moved_by_neighbour(scorer: Scorer, probes: Sequence[Piece]) -> float:
    """The most that any token moves when the tokens of the first piece are others.

    Sharper than the comparison with single passes, in which a leak can hide behind the rounding of
    half precision.
    """
    changed = [_probe((probes[0].token_ids + 1) % n_token_ids(scorer.model)), *probes[1:]]
    found, beside = (scorer.token_nlls(pieces, _PROBE_TOKENS) for pieces in (probes, changed))
    return float(_deviations(beside[1:], found[1:]).max())


def _tolerance(model: PreTrainedModel) -> float:
    import torch

    is_wide = model.dtype in (torch.float32, torch.float64)
    return _TOLERANCE_FLOAT32 if is_wide else _TOLERANCE_HALF


def _probe(token_ids: NDArray[np.int64]) -> Piece:
    return Piece(token_ids, np.arange(len(token_ids)) > 0)


def _deviations(
    found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> NDArray[np.float64]:
    a, b = np.concatenate(found).astype(np.float64), np.concatenate(expected).astype(np.float64)
    # A broken model gives NaN both ways: that is told where the example can be named.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(a - b) / (1 + np.abs(b)))


def _takes(function: Any, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters
