"""Prompt file written by a chat model; an interrupted call is continued."""

import dataclasses
import importlib.metadata
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.chat import ChatModel
from clouds.generation.settings import ChatSettings
from clouds.generation.writing import INSTRUCTION, write_prompts
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.jsonl import Row, read_rows, write_rows
from clouds.utils.open_clip import open_clip
from clouds.utils.signals import stop_here
from clouds.utils.world import world_from

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
        UserError: a file cannot be read, the model cannot be loaded, or it wrote too few prompts.
        WriteError: a file cannot be written. Accepted prompts are kept.
    """
    if world_from().size > 1:
        raise UserError("Prompts are written by one process: start it without torchrun, mpirun or srun.")
    instruction = _read_instruction(instruction_file) if instruction_file else INSTRUCTION
    unfinished = output.with_name(f"{output.name}.unfinished")
    recipe = {**dataclasses.asdict(dataclasses.replace(chat, device="")), "seed": seed, "batch_size": batch_size}
    rows = _read_unfinished(unfinished, output, recipe | {"instruction": instruction})
    prompts = [row["prompt"] for row in rows[1:]][:num_prompts]
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
        first_turn=rows[-1]["turn"] + 1 if prompts else 0,
        max_turns=max_turns,
        requests=batch_size,
        count_tokens=lambda text: len(tokenizer.encode(text)),
    )
    with tqdm(total=num_prompts, initial=len(prompts), unit="prompt") as progress:
        for turn in turns:
            prompts += turn.taken
            refused += turn.refused
            rows += [{"turn": turn.number, "prompt": prompt} for prompt in turn.taken]
            if turn.taken:
                write_rows(unfinished, rows)
            progress.update(len(turn.taken))
            if len(prompts) < num_prompts:
                stop_here()
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


def _read_unfinished(unfinished: Path, output: Path, recipe: dict[str, Any]) -> list[Row]:
    """Return the rows of an interrupted call: its recipe, then turn and text of every prompt that it accepted.

    Without such a file, the recipe is the only row.
    """
    remedy = "delete it, and the prompts are written from the beginning"
    make_folder(output.parent)
    # Reports a folder that is not writable before a model is loaded.
    write_atomically(unfinished, unfinished.read_bytes() if unfinished.is_file() else b"")
    rows = read_rows(unfinished, remedy)
    if not rows:
        unfinished.unlink()
        return [{"recipe": recipe}]
    kinds = {"turn": int, "prompt": str}
    if not isinstance(rows[0].get("recipe"), dict) or any(
        type(row.get(key)) is not kinds[key] for row in rows[1:] for key in kinds
    ):
        raise UserError(f"{unfinished} is damaged; {remedy}.")
    if differing := [key for key, value in recipe.items() if rows[0]["recipe"].get(key) != value]:
        raise UserError(
            f"{unfinished} holds prompts that were written with another {differing[0]}: give the same settings to "
            "continue, or delete it."
        )
    return rows


def _read_instruction(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The instruction {name} (--instruction) cannot be read: {reason}.") from error
