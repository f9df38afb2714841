"""Let a chat model write a file of prompts for generate_txt_im.py.

    python tools/generate_prompts.py --model FOLDER_OR_HUB_NAME --output prompts.txt

Each turn draws weather, time, place and things to be seen, so that the prompts differ even where the model is dull.
What it writes is checked: length, vocabulary, tokens, likeness to what was taken before. Stopped, the same command goes
on.
"""

import argparse
import importlib.metadata
import json
import logging
import sys
from collections import Counter
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.errors import UserError

logger = logging.getLogger("clouds.generate_prompts")


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Write the file, and FILE.json, which says how."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    if args.output.exists() and not args.force:
        raise UserError(f"{args.output} is there already; give another --output, or --force to write it anew.")
    unfinished = args.output.with_name(f"{args.output.name}.unfinished")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise UserError(f"Cannot write {args.output} (--output): {error.strerror}; check its folder.") from error
    done = [line.split("\t", 1) for line in unfinished.read_text(encoding="utf-8").splitlines() if "\t" in line]
    if not done:
        unfinished.unlink()

    import open_clip
    from tqdm import tqdm

    from clouds.generation.device import resolve_device
    from clouds.generation.writing import INSTRUCTION, ChatModel, write_prompts
    from clouds.utils.atomic import write_atomically

    instruction = read_instruction(args.instruction) if args.instruction else INSTRUCTION
    prompts = [prompt for _, prompt in done][: args.num_prompts]
    if prompts:
        logger.info(f"{len(prompts)} prompts are there already, in {unfinished}.")
    model = ChatModel(
        args.model,
        revision=args.revision,
        device=resolve_device(args.device),
        dtype=args.dtype,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
    )
    tokenizer = open_clip.SimpleTokenizer()
    refused: Counter[str] = Counter()
    turns = write_prompts(
        model,
        count=args.num_prompts,
        seed=args.seed,
        instruction=instruction,
        taken=prompts,
        first_turn=int(done[-1][0]) + 1 if done else 0,
        max_turns=args.max_turns,
        requests=args.batch_size,
        count_tokens=lambda text: len(tokenizer.encode(text)),
    )
    with tqdm(total=args.num_prompts, initial=len(prompts), unit="prompt") as progress:
        for turn in turns:
            prompts += turn.taken
            refused += turn.refused
            with unfinished.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{turn.number}\t{prompt}\n" for prompt in turn.taken)
            progress.update(len(turn.taken))
    for reason, count in refused.most_common():
        logger.info(f"{count:>6} refused: {reason}")
    if len(prompts) < args.num_prompts:
        raise UserError(
            f"{args.model} wrote {len(prompts)} of {args.num_prompts} prompts in {args.max_turns} turns; take a model "
            f"that follows instructions, or more --max-turns. What there is stays in {unfinished}."
        )
    record = {
        **{key: value for key, value in sorted(vars(args).items()) if key not in ("output", "force")},
        "instruction": instruction,
        "refused": dict(refused.most_common()),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    note = args.output.with_name(f"{args.output.name}.json")
    write_atomically(note, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_atomically(args.output, "".join(f"{prompt}\n" for prompt in prompts))
    unfinished.unlink(missing_ok=True)
    logger.info(f"{len(prompts)} prompts in {args.output}")
    return 0


def read_instruction(name: str) -> str:
    """The text of a file."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The instruction {name} (--instruction) cannot be read: {error}.") from error


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="hub name or local folder of a chat model of transformers")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--output", required=True, type=Path, metavar="FILE", help="the prompts, one a line")
    add("--force", action="store_true", help="write FILE anew where it is there")
    add("--num-prompts", type=int, default=100, metavar="N", help="default 100")
    add("--seed", type=int, default=0, help="default 0")
    add("--instruction", metavar="FILE", help="what the model is asked, instead of the built-in text; same braces")
    add("--batch-size", type=int, default=4, metavar="B", help="requests that the model answers at once (default 4)")
    add("--max-turns", type=int, default=200, help="batches of requests until it is given up (default 200)")
    add("--max-new-tokens", type=int, default=400, help="of a reply (default 400)")
    add("--temperature", type=float, default=0.9, help="above 0; lower is duller (default 0.9)")
    add("--top-p", type=float, default=0.95, help="share of the likeliest words to choose from (default 0.95)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--dtype", default="auto", help="auto: as the weights are stored; float32, bfloat16, float16")
    args = parser.parse_args(argv)
    for name in ("num_prompts", "batch_size", "max_turns", "max_new_tokens"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1.")
    return args


if __name__ == "__main__":
    sys.exit(main())
