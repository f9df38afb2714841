"""The command ``clouds prompts``: let a chat model write a file of prompts."""

import argparse
import logging
import sys
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.generation.settings import ChatSettings
from clouds.utils.arguments import CommandParser, float_from, positive_float, positive_int, seed
from clouds.utils.signals import stop_on_signals

DESCRIPTION = """\
Let a chat model write a file of prompts for the generation of images.

    %(prog)s --model FOLDER_OR_HUB_NAME --output prompts.txt

Each request draws weather, time of day, place and visible objects, so that the prompts differ. The replies are checked:
length, vocabulary, number of tokens, similarity to earlier prompts. After an interruption, the same command continues.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Write the file of prompts, and FILE.json with the settings.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    if args.output.exists() and not args.force:
        raise UserError(f"{args.output} exists already; give another --output, or --force to replace it.")
    chat = ChatSettings(
        model=args.model,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
    )
    run(
        args.output,
        chat,
        num_prompts=args.num_prompts,
        seed=args.seed,
        instruction_file=args.instruction,
        batch_size=args.batch_size,
        max_turns=args.max_turns,
    )
    return 0


def run(
    output: Path,
    chat: ChatSettings,
    *,
    num_prompts: int,
    seed: int,
    instruction_file: str | None,
    batch_size: int,
    max_turns: int,
) -> None:
    """Write the file of prompts, see `clouds.generation.prompt_file.write_prompt_file`."""
    from clouds.generation.prompt_file import write_prompt_file

    with stop_on_signals():
        write_prompt_file(
            output,
            chat,
            num_prompts=num_prompts,
            seed=seed,
            instruction_file=instruction_file,
            batch_size=batch_size,
            max_turns=max_turns,
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="hub name or local folder of a chat model of transformers")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--output", required=True, type=Path, metavar="FILE", help="file to write, one prompt per line")
    add("--force", action="store_true", help="replace FILE if it exists")
    add("--num-prompts", type=positive_int, default=100, metavar="N", help="number of prompts (default: 100)")
    add("--seed", type=seed, default=0, help="seed of scenes and replies (default: 0)")
    add("--instruction", metavar="FILE", help="instruction to the model, with the braces of the built-in text")
    add("--batch-size", type=positive_int, default=4, metavar="B", help="requests answered at once (default: 4)")
    add("--max-turns", type=positive_int, default=200, help="batches of requests before giving up (default: 200)")
    add("--max-new-tokens", type=positive_int, default=400, help="maximum length of a reply in tokens (default: 400)")
    add("--temperature", type=positive_float, default=0.9, help="sampling temperature (default: 0.9)")
    add(
        "--top-p",
        type=float_from(0, 1, above=True),
        default=0.95,
        help="probability mass to sample from, up to 1 (default: 0.95)",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    add("--dtype", default="auto", help="auto (that of the weights), float32, bfloat16 or float16 (default: auto)")
    return parser.parse_args(argv)
