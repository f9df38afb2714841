"""Prompts written by a chat model: what it is asked, what of its reply is a prompt, and which prompts are good."""

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clouds.errors import UserError

logger = logging.getLogger(__name__)

# Braces are filled by `request`. A file of one's own may use any of them.
INSTRUCTION = """\
You write prompts for a model that paints photographs of streets as a car's camera sees them.
Write {count} prompts, one a line, without numbers, quotes or comments. Each is one English sentence of 8 to 25 words.
Begin like a caption, for example "A photo of" or "A view of". Describe what can be seen: the road and its surroundings,
vehicles, people, buildings, weather and light. No brand names, no famous places, no style words.
This time the weather is {weather}, it is {time}, the place is {place}, and among the things to be seen are {things}.
"""

WEATHERS = ("sunny", "cloudy", "rainy", "foggy", "snowy", "stormy", "hazy", "clearing up after rain")
TIMES = ("dawn", "morning", "noon", "afternoon", "dusk", "night")
PLACES = (
    "a city centre", "a suburb", "a village", "a highway", "a mountain road", "an industrial area", "a coastal town",
    "a business district", "a crossroads", "a market street", "a country road", "a street with tram tracks",
)  # fmt: skip
THINGS = (
    "a sidewalk", "tall buildings", "a wall", "a fence", "poles", "traffic lights", "traffic signs", "trees",
    "a meadow", "much sky", "pedestrians", "a rider", "cars", "a truck", "a bus", "a train or tram",
    "a motorcycle", "bicycles",
)  # fmt: skip

LEAST_WORDS, MOST_WORDS = 5, 40
SIMILAR = 0.8  # share of words in common (Jaccard) from which two prompts are the same
_STREET = re.compile(
    r"\b(roads?|streets?|avenues?|boulevards?|highways?|motorways?|freeways?|lanes?|alleys?|junctions?|crossroads|"
    r"intersections?|crosswalks?|roundabouts?|bridges?|tunnels?|sidewalks?|traffic|cars?|buses|bus|trucks?|trams?|trains?|"
    r"motorcycles?|bicycles?|cyclists?|city|town|village|suburbs?|suburban|urban|downtown|parking)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"https?:|www\.|[<>{}\[\]#*_|\\@]")
_LEAD = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}\s*[.):\-]|prompt\s*\d*\s*:)\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`"

# Requests and a seed in, a reply each out.
Writer = Callable[[Sequence[str], int], list[str]]


@dataclass(frozen=True)
class Turn:
    """What one round brought: prompts taken, and how many were refused for which reason."""

    number: int
    taken: list[str]
    refused: Counter[str]


def request(instruction: str, count: int, seed: int, turn: int, place: int) -> str:
    """The instruction with a drawn scene in its braces; the same for the same numbers.

    Raises:
        UserError: the instruction has braces that mean nothing.
    """
    draw = random.Random(f"{seed} {turn} {place}")
    scene = {
        "count": count,
        "weather": draw.choice(WEATHERS),
        "time": draw.choice(TIMES),
        "place": draw.choice(PLACES),
        "things": ", ".join(draw.sample(THINGS, 3)),
    }
    try:
        return instruction.format(**scene)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"The instruction has braces that cannot be filled ({error}); it may use "
            f"{', '.join(f'{{{key}}}' for key in scene)}."
        ) from error


def parse_reply(reply: str) -> list[str]:
    """The lines of a reply that may be prompts: without numbers, bullets, quotes, and lines that announce others."""
    found = []
    for line in reply.splitlines():
        text = " ".join(_LEAD.sub("", line).split()).strip(_QUOTES).strip()
        if text and not text.endswith(":"):
            found.append(text)
    return found


def refusal(prompt: str, taken: Collection[str], count_tokens: Callable[[str], int]) -> str | None:
    """Why a prompt is not taken, or None.

    Args:
        prompt: of one line.
        taken: prompts so far.
        count_tokens: tokens of a text for Stable Diffusion's encoder, which sees 77, its two marks included.
    """
    words = len(prompt.split())
    if not LEAST_WORDS <= words <= MOST_WORDS:
        return f"not {LEAST_WORDS} to {MOST_WORDS} words"
    if not prompt.isprintable() or _MARKUP.search(prompt):
        return "markup or odd characters"
    if not _STREET.search(prompt):
        return "nothing of a street in it"
    if count_tokens(prompt) > 75:
        return "more than 77 tokens"
    mine = _word_set(prompt)
    if any(len(mine & other) >= SIMILAR * len(mine | other) for other in map(_word_set, taken)):
        return "like one that was taken"
    return None


def write_prompts(
    writer: Writer,
    *,
    count: int,
    seed: int,
    instruction: str = INSTRUCTION,
    taken: Sequence[str] = (),
    first_turn: int = 0,
    max_turns: int = 200,
    requests: int = 4,
    per_request: int = 5,
    count_tokens: Callable[[str], int],
) -> Iterator[Turn]:
    """Ask until there are enough.

    Args:
        writer: the chat model.
        count: of prompts wanted.
        seed: decides all that is drawn; turn n of a seed asks the same, whenever it comes.
        instruction: template of `request`.
        taken: prompts that are there already.
        first_turn: number of the first turn to make.
        max_turns: that are made until it is given up.
        requests: that the model answers at once.
        per_request: prompts asked for in each.
        count_tokens: as in `refusal`.

    Yields:
        Each turn as it ends; the prompts of all, after `taken`, are `count` when it stops.
    """
    prompts = list(taken)
    for turn in range(first_turn, max_turns):
        if len(prompts) >= count:
            return
        asked = [request(instruction, per_request, seed, turn, place) for place in range(requests)]
        new: list[str] = []
        refused: Counter[str] = Counter()
        for prompt in (prompt for reply in writer(asked, seed + turn) for prompt in parse_reply(reply)):
            if len(prompts) + len(new) == count:
                break
            if reason := refusal(prompt, [*prompts, *new], count_tokens):
                refused[reason] += 1
            else:
                new.append(prompt)
        prompts += new
        yield Turn(turn, new, refused)


class ChatModel:
    """A chat model of transformers as a `Writer`."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        temperature: float = 0.9,
        top_p: float = 0.95,
        max_new_tokens: int = 400,
    ) -> None:
        """Load it.

        Args:
            model: name on the hub, or a local folder.
            revision: branch, tag or commit on the hub.
            device: of torch.
            dtype: name of a torch type, or `auto`: as the weights are stored.
            temperature: above 0; lower is duller.
            top_p: share of the likeliest words to choose from, 0..1.
            max_new_tokens: of a reply.

        Raises:
            UserError: there is no such model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype=dtype)
        # What transformers and the hub's client raise for a model that is not there or writes no text.
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"The chat model {model!r} cannot be loaded ({reason}); name a text model of the hub or a local folder."
            ) from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = loaded.to(device).eval()
        self._sampling = {
            "do_sample": True,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "pad_token_id": self._tokenizer.pad_token_id,
        }

    def __call__(self, requests: Sequence[str], seed: int) -> list[str]:
        """A reply to each request, drawn with this seed."""
        import torch

        texts = [self._as_chat(request) for request in requests]
        # A chat template writes the marks of the beginning itself.
        own_marks = self._tokenizer.chat_template is not None
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not own_marks)
        batch = {name: batch[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            tokens = self._model.generate(**batch, **self._sampling)
        new = tokens[:, batch["input_ids"].shape[1] :]
        replies: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return replies

    def _as_chat(self, request: str) -> str:
        if self._tokenizer.chat_template is None:
            return request
        chat = [{"role": "user", "content": request}]
        text: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return text


def _word_set(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", prompt.lower()))
