"""How many prompts occur in other texts, such as the data of SFT: exactly, or in long parts.

A text is read as words: lower case, letters and digits only, white space and punctuation between
words do not count. A prompt is *exact* if its words stand in a row in one of the texts. It
*overlaps* if it is exact, or if one of its runs of 13 words stands in one of the texts; runs in more than ten
different prompts are boilerplate (the instruction at the end of each prompt) and do not count. Both
numbers are those of the overlap analysis of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C).
A prompt with fewer than 13 words can only be exact, and only as a whole message: a short text such
as `2+3` stands in many others by chance.

Version 1.
"""  # noqa: E501

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

N_WORDS = 13
"""Words of a run."""
MOST_PROMPTS = 10
"""Prompts that may share a run before it counts as boilerplate."""

_WORD = re.compile(r"[^\W_]+|[+\-*/=^<>]")


@dataclass(frozen=True, kw_only=True)
class TextOverlap:
    """The prompts that occur in the other texts, by id, in the order of the prompts.

    Args:
        exact: prompts whose words all stand in a row in one text.
        partial: further prompts that share a run of words.
        n_texts: texts that were read.
    """

    exact: tuple[str, ...]
    partial: tuple[str, ...]
    n_texts: int

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {"exact": list(self.exact), "partial": list(self.partial), "n_texts": self.n_texts}


class PromptIndex:
    """Prompts by their words, to find them in texts.

    Args:
        prompts: texts of the prompts, by id.

    Example:
        >>> PromptIndex({"a": "What is 2 + 3?", "b": "Name a prime."}).hits("what is 2+3")
        ({'a'}, set())
    """

    def __init__(self, prompts: Mapping[str, str]) -> None:
        self._words = {id_: tuple(words_of(text)) for id_, text in prompts.items()}
        self._whole: dict[tuple[str, ...], list[str]] = {}
        self._runs: dict[tuple[str, ...], list[str]] = {}
        shared = Counter(run for each in self._words.values() for run in set(_runs(each)))
        for id_, each in self._words.items():
            if each:
                self._whole.setdefault(each, []).append(id_)
            for run in set(_runs(each)):
                if shared[run] <= MOST_PROMPTS:
                    self._runs.setdefault(run, []).append(id_)
        self._ends = {(run[0], run[-1]) for run in self._runs}

    def hits(self, text: str) -> tuple[set[str], set[str]]:
        """Return the prompts that stand in a text word for word, and those that share a run."""
        words = tuple(words_of(text))
        exact = set(self._whole.get(words, ()))
        partial: set[str] = set()
        # Looking for the two ends first is twice as fast as building each run.
        for i, ends in enumerate(zip(words, words[N_WORDS - 1 :], strict=False)):
            if ends in self._ends:
                partial.update(self._runs.get(words[i : i + N_WORDS], ()))
        exact |= {id_ for id_ in partial - exact if _contains(words, self._words[id_])}
        return exact, partial - exact


def text_overlap(prompts: Mapping[str, str], texts: Iterable[str]) -> TextOverlap:
    """Return which prompts occur in the texts.

    Args:
        prompts: texts of the prompts, by id.
        texts: read once, one at a time.

    Example:
        >>> text_overlap({"a": "What is 2 + 3?", "b": "Name a prime."}, ["what is 2+3"]).exact
        ('a',)
    """
    index = PromptIndex(prompts)
    exact: set[str] = set()
    partial: set[str] = set()
    n_texts = 0
    for text in texts:
        n_texts += 1
        some_exact, some_partial = index.hits(text)
        exact |= some_exact
        partial |= some_partial
    return TextOverlap(
        exact=tuple(id_ for id_ in prompts if id_ in exact),
        partial=tuple(id_ for id_ in prompts if id_ in partial - exact),
        n_texts=n_texts,
    )


def words_of(text: str) -> list[str]:
    """Return the words and signs of arithmetic in a text, in lower case."""
    return _WORD.findall(text.casefold())


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[i : i + N_WORDS] for i in range(len(words) - N_WORDS + 1))


def _contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    first, n = part[0], len(part)
    return any(words[i] == first and words[i : i + n] == part for i in range(len(words) - n + 1))
