"""A CLIP tokenizer with a small vocabulary: every word of minicity's captions is one token."""

from collections.abc import Sequence
from typing import Any

from transformers import CLIPTokenizer

_LIST = """
a after an and at avenue bicycle bicycles building buildings bus buses busy car cars city clouds country day dirt
drizzle dusk dust early evening fence four frosty grass grey haze hazy in lamps light lights little morning motorcycle
motorcycles noon of on pedestrians people person photo picture quiet rider riders road several shower sidewalk sign
signs snapshot snow storm street sun sunset sunshine the three traffic train trains tree trees truck trucks twilight two
under view walking wall walls with without
"""
WORDS = tuple(_LIST.split())
"""Words that are one token each: all words of the captions, and a few that users may write instead."""

CONTEXT_LENGTH = 64
"""Number of tokens that the text encoder reads, start and end tokens included."""


def build_tokenizer() -> Any:
    """Return a `CLIPTokenizer` for `WORDS`. Other words are split into pieces of them and single letters."""
    vocabulary, merges = build_vocabulary(WORDS)
    make: Any = CLIPTokenizer
    return make(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


def build_vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Build the two tables of a CLIP tokenizer, such that each word is merged into one token.

    Returns:
        Token to id; pairs of tokens that are merged, in the order of their priority.
    """
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        # A new pair has the lowest priority, so it changes no earlier word.
        while len(pieces := apply_merges(word, merges)) > 1:
            merges[pieces[0], pieces[1]] = None
            tokens.append(pieces[0] + pieces[1])
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def apply_merges(word: str, merges: dict[tuple[str, str], None]) -> list[str]:
    """Split a word into tokens by byte-pair encoding (Sennrich et al., ACL 2016), pairs of high priority first."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    for first, second in merges:
        place = 0
        while place < len(pieces) - 1:
            if (pieces[place], pieces[place + 1]) == (first, second):
                pieces[place : place + 2] = [first + second]
            place += 1
    return pieces
