"""Prompt file written by a chat model; an interrupted call is continued."""

import dataclasses
import importlib.metadata
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.chat import ChatModel
from clouds.generation.settings import ChatSettings
from clouds.generation.writing import INSTRUCTION, Turn, write_prompts
from clouds.utils.atomic import write_atomically

logger = logging.getLogger(__name__)


def write_prompt_file(
    output: Path,
    chat: ChatSettings,
    *,
    num_prompts: int = 100,
    seed: int = 0,
    instruction_file: str | None = None,
    batch_size: int = 4,
    max_turns: int = 200,
) -> None:
    """Write a file with one prompt per line, and ``<output>.json`` with the settings.

    Accepted prompts are kept in ``<output>.unfinished`` until there are enough; the same call continues there.

    Args:
        output: file to write; it is replaced if it exists.
        chat: the chat model.
        num_prompts: number of prompts.
        seed: seed of the scenes and of the replies.
        instruction_file: file with the instruction to the model; None for `clouds.generation.writing.INSTRUCTION`.
        batch_size: number of requests that the model answers at once.
        max_turns: number of batches of requests before giving up.

    Raises:
        UserError: a file cannot be read or written, the model cannot be loaded, or it wrote too few prompts.
    """
    unfinished = output.with_name(f"{output.name}.unfinished")
    done = _read_unfinished(unfinished, output)
    instruction = _read_instruction(instruction_file) if instruction_file else INSTRUCTION
    prompts = [prompt for _, prompt in done][:num_prompts]
    if prompts:
        logger.info(f"{len(prompts)} prompts exist already, in {unfinished}.")
    tokenizer = open_clip.SimpleTokenizer()
    refused: Counter[str] = Counter()
    turns = write_prompts(
        ChatModel(chat),
        count=num_prompts,
        seed=seed,
        instruction=instruction,
        taken=prompts,
        first_turn=done[-1][0] + 1 if done else 0,
        max_turns=max_turns,
        requests=batch_size,
        count_tokens=lambda text: len(tokenizer.encode(text)),
    )
    with tqdm(total=num_prompts, initial=len(prompts), unit="prompt") as progress:
        for turn in turns:
            prompts += turn.taken
            refused += turn.refused
            _append(unfinished, turn)
            progress.update(len(turn.taken))
    for reason, count in refused.most_common():
        logger.info(f"{count:>6} refused: {reason}")
    if len(prompts) < num_prompts:
        raise UserError(
            f"{chat.model} wrote {len(prompts)} of {num_prompts} prompts in {max_turns} turns; use a model that "
            f"follows instructions, or more --max-turns. The accepted prompts are kept in {unfinished}."
        )
    settings = {"num_prompts": num_prompts, "seed": seed, "batch_size": batch_size, "max_turns": max_turns}
    record = {
        **dict(sorted({**dataclasses.asdict(chat), **settings}.items())),
        "instruction": instruction,
        "refused": dict(refused.most_common()),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    _finish(output, prompts, record, unfinished)


def _finish(output: Path, prompts: Sequence[str], record: dict[str, Any], unfinished: Path) -> None:
    """Write the prompts and their record, and remove the unfinished file."""
    record_file = output.with_name(f"{output.name}.json")
    write_atomically(record_file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_atomically(output, "".join(f"{prompt}\n" for prompt in prompts))
    unfinished.unlink(missing_ok=True)
    logger.info(f"{len(prompts)} prompts in {output}")


def _read_unfinished(unfinished: Path, output: Path) -> list[tuple[int, str]]:
    """Read the turn and the text of every prompt that an interrupted call has accepted."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        lines = unfinished.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"Cannot write {output} (--output): {error.strerror}; check its folder.") from error
    rows = [line.split("\t", 1) for line in lines if "\t" in line]
    if not rows:
        unfinished.unlink()
    return [(int(turn), prompt) for turn, prompt in rows]


def _append(unfinished: Path, turn: Turn) -> None:
    """Add the accepted prompts of a turn to the file that an interrupted call continues from."""
    with unfinished.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{turn.number}\t{prompt}\n" for prompt in turn.taken)


def _read_instruction(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The instruction {name} (--instruction) cannot be read: {error}.") from error
