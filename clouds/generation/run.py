"""Generation of a set in blocks, and repetition of the images of a manifest."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.dataset import GeneratedSet
from clouds.generation.gate import RGB, Verdict, difference_hash, duplicate_reason, near_duplicates
from clouds.generation.painter import Painted
from clouds.generation.plan import image_seed, prompt_of
from clouds.utils.jsonl import Row
from clouds.utils.signals import stop_here

logger = logging.getLogger(__name__)

Paint = Callable[[Sequence[str], Sequence[int]], list[Painted]]
"""Prompts and seeds -> images, as `clouds.generation.painter.Painter`."""

Judge = Callable[[Sequence[RGB], Sequence[str]], list[Verdict]]
"""Images and prompts -> verdicts, each from one image and its prompt alone, as `clouds.generation.gate.Gate`."""

FLAGGED = "flagged by the model's own safety checker"


@dataclass
class Run:
    """Share of one process in the generation of a set.

    Attributes:
        target: set to generate; `GeneratedSet.begin` has been called.
        paint: generates images.
        prompts: prompts of the whole set.
        seed: seed of the whole set.
        blocks: global indices of each batch of this process, in order.
        part: blocks of all processes that generate this part; empty if `blocks` is the whole part.
        gate: accepts or rejects images; None to accept every image that the model's own safety checker accepts.
        attempts: number of times that an image is generated before it is left out.
        duplicate_distance: largest number of differing bits at which two hashes count as near-duplicates; None to keep
            near-duplicates.
        rank: number of this process, for the progress bar.
        written: number of images written so far.
    """

    target: GeneratedSet
    paint: Paint
    prompts: Sequence[str]
    seed: int
    blocks: Sequence[range]
    part: Sequence[range] = ()
    gate: Judge | None = None
    attempts: int = 5
    duplicate_distance: int | None = None
    rank: int = 0
    written: int = field(default=0, init=False)

    def __call__(self) -> int:
        """Generate the missing images.

        A block with a missing image is generated as a whole, so that the image is computed in the same batch as in an
        uninterrupted run.

        Returns:
            The number of images written.

        Raises:
            UserError: an image cannot be generated or written.
            Stopped: a signal has asked to stop; the block that was begun is finished first.
        """
        given_up = self.given_up()
        missing = {block: [i for i in block if i not in given_up and not self._exists(i)] for block in self.blocks}
        total, wanted_total = sum(map(len, self.blocks)), sum(map(len, missing.values()))
        if existing := total - wanted_total:
            logger.info(f"{existing:,} of {total:,} images exist already.")
        description = f"process {self.rank}"
        with tqdm(total=wanted_total, unit="image", desc=description, disable=not wanted_total) as progress:
            for block, wanted in missing.items():
                if wanted:
                    stop_here()
                    self._paint_block(block, set(wanted), progress.update)
        if self.duplicate_distance is not None:
            self._replace_duplicates(self.duplicate_distance)
        return self.written

    def given_up(self) -> set[int]:
        """Return the indices of the images that were rejected in every attempt."""
        attempts: dict[int, int] = defaultdict(int)
        for index, _ in self.target.rejected():
            attempts[index] += 1
        return {index for index, count in attempts.items() if count >= self.attempts}

    def _paint_block(self, block: Sequence[int], wanted: set[int], on_written: Callable[[], object]) -> None:
        """Generate a block until its wanted images are accepted; each attempt repeats the rejected images only."""
        rejected_before = self.target.rejected()
        batch, attempt = list(block), 0
        while batch and wanted:
            prompts = [prompt_of(index, self.prompts)[1] for index in batch]
            painted = self.paint(prompts, [image_seed(self.seed, index, attempt) for index in batch])
            verdicts = self._verdicts(painted, prompts)
            rejected: list[Row] = []
            again: list[int] = []
            for index, image, verdict in zip(batch, painted, verdicts, strict=True):
                row = self._row(index, attempt, batch, image, verdict)
                if (index, attempt) in rejected_before:
                    again.append(index)
                elif verdict.reason is not None:
                    again.append(index)
                    rejected.append({**row, "reason": verdict.reason})
                elif index in wanted:
                    self.target.write(image.pixels, row)
                    self.written += 1
                    wanted.discard(index)
                    on_written()
            if rejected:
                self.target.reject(rejected)
            attempt += 1
            if attempt == self.attempts:
                if again:
                    logger.warning(
                        f"Image(s) {', '.join(map(str, again))} were rejected {attempt} times and are left out; "
                        f"see {self.target.rejected_file} for the reasons."
                    )
                break
            batch = again

    def _row(self, index: int, attempt: int, batch: list[int], image: Painted, verdict: Verdict) -> Row:
        prompt_index, prompt = prompt_of(index, self.prompts)
        return {
            "index": index,
            "prompt_index": prompt_index,
            "prompt": prompt,
            "seed": image_seed(self.seed, index, attempt),
            "attempt": attempt,
            "batch": batch,
            "height": image.pixels.shape[0],
            "width": image.pixels.shape[1],
            "similarity": verdict.similarity,
            "dhash": verdict.dhash,
        }

    def _verdicts(self, painted: Sequence[Painted], prompts: Sequence[str]) -> list[Verdict]:
        images = [image.pixels for image in painted]
        if self.gate is None:
            verdicts = [Verdict(None, None, difference_hash(image)) for image in images]
        else:
            verdicts = self.gate(images, prompts)
        return [
            Verdict(FLAGGED, verdict.similarity, verdict.dhash) if image.flagged else verdict
            for image, verdict in zip(painted, verdicts, strict=True)
        ]

    def _exists(self, index: int) -> bool:
        return self.target.row(index, prompt_of(index, self.prompts)[0]) is not None

    def _replace_duplicates(self, distance: int) -> None:
        """Reject and generate again the near-duplicates of earlier images, until there are none.

        Only the last process of the part finds it complete and does this, so the result does not depend on the number
        of processes.
        """
        block_of = {index: block for block in self.part or self.blocks for index in block}
        while True:
            with self.target.lock():
                rows = {row["index"]: row for row in self.target.all_rows()}
                if not block_of.keys() <= rows.keys() | self.given_up():
                    return
                near = near_duplicates([(index, row["dhash"]) for index, row in rows.items()], distance)
                again = [index for index in near if index in block_of]
                self.target.reject_locked(
                    {**_record(rows[index]), "reason": duplicate_reason(rows[index], rows[near[index]], distance)}
                    for index in again
                )
                for index in again:
                    self.target.remove(rows[index])
            if not again:
                return
            logger.info(f"{len(again)} image(s) are near-duplicates of earlier ones and are generated again.")
            wanted: dict[range, set[int]] = defaultdict(set)
            for index in set(again) - self.given_up():
                wanted[block_of[index]].add(index)
            with tqdm(total=len(again), unit="image", desc="near-duplicates") as progress:
                for block in sorted(wanted, key=lambda block: block.start):
                    stop_here()
                    self._paint_block(block, wanted[block], progress.update)


def repaint(
    target: GeneratedSet, paint: Paint, rows: Sequence[Row], prompts: Sequence[str], seed: int
) -> tuple[int, list[Row]]:
    """Generate the images of a manifest again, each in its recorded batch; images that exist are kept.

    Args:
        target: set to write to; `GeneratedSet.begin` has been called.
        paint: generates images, in batches as large as the recorded ones.
        rows: rows of the manifest.
        prompts: prompts of the set with the manifest.
        seed: seed of the set with the manifest.

    Returns:
        The number of images written, and the rows whose image is not bit for bit the recorded one.

    Raises:
        UserError: an image cannot be generated or written.
    """
    batches: dict[tuple[tuple[int, ...], int], list[Row]] = defaultdict(list)
    different = []
    for row in rows:
        existing = target.row(row["index"], row["prompt_index"])
        if existing is None:
            batches[tuple(row["batch"]), row["attempt"]].append(row)
        elif existing["sha256"] != row["sha256"]:
            different.append(row)
    missing = sum(map(len, batches.values()))
    with tqdm(total=missing, unit="image") as progress:
        for (batch, attempt), wanted in batches.items():
            stop_here()
            painted = paint(
                [prompt_of(index, prompts)[1] for index in batch], [image_seed(seed, index, attempt) for index in batch]
            )
            for row in wanted:
                new = target.write(painted[batch.index(row["index"])].pixels, _record(row))
                if new["sha256"] != row["sha256"]:
                    different.append(row)
                progress.update()
    return missing, different


def choose(rows: Iterable[Row], indices: Sequence[int] | None) -> list[Row]:
    """Return the rows with these indices; all rows if `indices` is None.

    Raises:
        UserError: the manifest has no row with one of the indices.
    """
    rows = list(rows)
    if indices is None:
        return rows
    by_index = {row["index"]: row for row in rows}
    if absent := [index for index in indices if index not in by_index]:
        more = f" and {len(absent) - 10:,} more" if len(absent) > 10 else ""
        raise UserError(
            f"--images asks for {', '.join(map(str, absent[:10]))}{more}, which the manifest does not have "
            f"({len(rows)} rows)."
        )
    return [by_index[index] for index in indices]


def _record(row: Row) -> Row:
    """Return a row without the entries that describe the file."""
    return {key: value for key, value in row.items() if key not in ("file_name", "size", "sha256")}
