"""Prompts written by a chat model: requests, parsing of replies, and selection of prompts."""

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from clouds.errors import UserError

logger = logging.getLogger(__name__)

INSTRUCTION = """\
You write prompts for a model that paints photographs of streets as a car's camera sees them.
Write {count} prompts, one a line, without numbers, quotes or comments. Each is one English sentence of 8 to 25 words.
Begin like a caption, for example "A photo of" or "A view of". Describe what can be seen: the road and its surroundings,
vehicles, people, buildings, weather and light. No brand names, no famous places, no style words.
This time the weather is {weather}, it is {time}, the place is {place}, and among the things to be seen are {things}.
"""
"""Default instruction. `request` fills the braces; a custom instruction may use any of them."""

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

MIN_WORDS, MAX_WORDS = 5, 40
SIMILAR = 0.8  # Jaccard index of their words from which two prompts count as duplicates
_STREET = re.compile(
    r"\b(roads?|streets?|avenues?|boulevards?|highways?|motorways?|freeways?|lanes?|alleys?|junctions?|crossroads|"
    r"intersections?|crosswalks?|roundabouts?|bridges?|tunnels?|sidewalks?|traffic|cars?|buses|bus|trucks?|trams?|trains?|"
    r"motorcycles?|bicycles?|cyclists?|city|town|village|suburbs?|suburban|urban|downtown|parking)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"https?:|www\.|[<>{}\[\]#*_|\\@]")
_LEAD = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}\s*[.):\-]|prompt\s*\d*\s*:)\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`"

Writer = Callable[[Sequence[str], int], list[str]]
"""Requests and a seed -> a reply to each request."""


@dataclass(frozen=True)
class Turn:
    """Result of one batch of requests.

    Attributes:
        number: number of the turn.
        taken: accepted prompts.
        refused: number of rejected prompts by reason.
    """

    number: int
    taken: list[str]
    refused: Counter[str]


def request(instruction: str, count: int, seed: int, turn: int, index: int) -> str:
    """Fill the braces of an instruction with a random scene.

    Args:
        instruction: text that may contain {count}, {weather}, {time}, {place} and {things}.
        count: number of prompts to ask for.
        seed: seed of all requests.
        turn: number of the turn; part of the seed.
        index: number of the request in the turn; part of the seed.

    Raises:
        UserError: the instruction has other braces.
    """
    draw = random.Random(f"{seed} {turn} {index}")
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
    """Return the lines of a reply without numbers, bullets and quotes; lines that end in a colon are left out."""
    found = []
    for line in reply.split("\n"):
        text = " ".join(_LEAD.sub("", line).split()).strip(_QUOTES).strip()
        if text and not text.endswith(":"):
            found.append(text)
    return found


def refusal(prompt: str, taken: Collection[str], count_tokens: Callable[[str], int]) -> str | None:
    """Return the reason to reject a prompt; None if it is accepted.

    Args:
        prompt: text of one line.
        taken: prompts accepted before.
        count_tokens: returns the number of tokens of a text for the text encoder of Stable Diffusion, without the two
            tokens for start and end. The encoder reads 77 with them.
    """
    words = len(prompt.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"not {MIN_WORDS} to {MAX_WORDS} words"
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
    """Ask a chat model for prompts until there are enough.

    Args:
        writer: answers requests.
        count: number of prompts to reach.
        seed: seed of everything random. A turn depends on the seed and its number only, so writing can be resumed.
        instruction: template for `request`.
        taken: prompts that exist already.
        first_turn: number of the first turn.
        max_turns: number of the turn to stop before, even if there are not enough prompts.
        requests: number of requests in a turn.
        per_request: number of prompts to ask for in each request.
        count_tokens: returns the number of tokens of a text, see `refusal`.

    Yields:
        Each turn when it ends. With the prompts in `taken`, the turns hold `count` prompts at the end.
    """
    prompts = list(taken)
    for turn in range(first_turn, max_turns):
        if len(prompts) >= count:
            return
        asked = [request(instruction, per_request, seed, turn, index) for index in range(requests)]
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


def _word_set(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", prompt.lower()))
