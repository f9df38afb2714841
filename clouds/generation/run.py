"""Painting a set: what is missing, in blocks, judged and written; and painting an old set again."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.dataset import GeneratedSet, Row
from clouds.generation.gate import Verdict, difference_hash, duplicate_reason, near_duplicates
from clouds.generation.painter import Painted
from clouds.generation.plan import image_seed, prompt_of

logger = logging.getLogger(__name__)

Paint = Callable[[Sequence[str], Sequence[int]], list[Painted]]
FLAGGED = "flagged by the model's own safety checker"


class Judge(Protocol):
    """Says of each image whether it is good enough, from the image and its prompt alone."""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[Verdict]: ...


@dataclass
class Run:
    """One process's share of a set.

    Attributes:
        images: where the set lies; begun.
        paint: as `Painter`.
        prompts: of the whole set.
        seed: of the whole set.
        blocks: global indices of each batch of this process, in order.
        part: the blocks of all processes that share this part; default `blocks`.
        judge: the quality gate, or None: every image is taken that the model's own safety checker lets pass.
        attempts: how often an image is painted until it is given up.
        duplicate_distance: bits; two images whose hashes differ in no more are near-duplicates. None: not looked for.
        rank: number of the process, for the progress bar.
    """

    images: GeneratedSet
    paint: Paint
    prompts: Sequence[str]
    seed: int
    blocks: Sequence[range]
    part: Sequence[range] = ()
    judge: Judge | None = None
    attempts: int = 5
    duplicate_distance: int | None = None
    rank: int = 0
    made: int = field(default=0, init=False)

    def __call__(self) -> int:
        """Paint what is missing.

        A block that misses an image is painted as a whole, so that each image is painted in the company that it has in
        an uninterrupted run.

        Returns:
            The number of images written.

        Raises:
            UserError: an image cannot be painted or written.
        """
        given_up = self._given_up()
        missing = {block: [i for i in block if i not in given_up and not self._is_there(i)] for block in self.blocks}
        there = sum(map(len, self.blocks)) - sum(map(len, missing.values()))
        if there:
            logger.info(f"{there:,} of {sum(map(len, self.blocks)):,} images are there already.")
        total = sum(map(len, missing.values()))
        with tqdm(total=total, unit="image", desc=f"process {self.rank}", disable=not total) as progress:
            for block, wanted in missing.items():
                if wanted:
                    self._paint_block(block, set(wanted), progress.update)
        if self.duplicate_distance is not None:
            self._sweep(self.duplicate_distance)
        return self.made

    def _paint_block(self, block: Sequence[int], wanted: set[int], told: Callable[[], object]) -> None:
        before = self.images.rejected()
        wave, attempt = list(block), 0
        while wave and wanted:
            prompts = [prompt_of(index, self.prompts)[1] for index in wave]
            painted = self.paint(prompts, [image_seed(self.seed, index, attempt) for index in wave])
            rejected: list[Row] = []
            again: list[int] = []
            for index, prompt, image, verdict in zip(
                wave, prompts, painted, self._judge(painted, prompts), strict=True
            ):
                row = {
                    "index": index,
                    "prompt_index": prompt_of(index, self.prompts)[0],
                    "prompt": prompt,
                    "seed": image_seed(self.seed, index, attempt),
                    "attempt": attempt,
                    "batch": wave,
                    "height": image.pixels.shape[0],
                    "width": image.pixels.shape[1],
                    "similarity": verdict.similarity,
                    "dhash": verdict.dhash,
                }
                if (index, attempt) in before:
                    again.append(index)
                elif verdict.reason is not None:
                    again.append(index)
                    rejected.append({**row, "reason": verdict.reason})
                elif index in wanted:
                    self.images.write(image.pixels, row)
                    self.made += 1
                    wanted.discard(index)
                    told()
            if rejected:
                self.images.reject(rejected)
            attempt += 1
            if attempt == self.attempts:
                if again:
                    logger.warning(
                        f"Image(s) {', '.join(map(str, again))} were rejected {attempt} times and are left out; "
                        f"{self.images.rejected_file} says why."
                    )
                break
            wave = again

    def _judge(self, painted: Sequence[Painted], prompts: Sequence[str]) -> list[Verdict]:
        pictures = [image.pixels for image in painted]
        if self.judge is None:
            verdicts = [Verdict(None, None, difference_hash(picture)) for picture in pictures]
        else:
            verdicts = self.judge(pictures, prompts)
        return [
            Verdict(FLAGGED, verdict.similarity, verdict.dhash) if image.flagged else verdict
            for image, verdict in zip(painted, verdicts, strict=True)
        ]

    def _given_up(self) -> set[int]:
        tries: dict[int, int] = defaultdict(int)
        for index, _ in self.images.rejected():
            tries[index] += 1
        return {index for index, count in tries.items() if count >= self.attempts}

    def _is_there(self, index: int) -> bool:
        return self.images.row(index, prompt_of(index, self.prompts)[0]) is not None

    def _sweep(self, distance: int) -> None:
        """Once the part is whole, reject and paint again what is too near an earlier image, until nothing is.

        Who finds the part whole is the last of its processes, so what is too near does not depend on how they share it.
        """
        block_of = {index: block for block in self.part or self.blocks for index in block}
        while True:
            with self.images.lock():
                rows = {row["index"]: row for row in self.images.all_rows()}
                if not block_of.keys() <= rows.keys() | self._given_up():
                    return
                near = near_duplicates([(index, row["dhash"]) for index, row in rows.items()], distance)
                again = [index for index in near if index in block_of]
                self.images.reject_locked(
                    {**_painted_part(rows[index]), "reason": duplicate_reason(rows[index], rows[near[index]], distance)}
                    for index in again
                )
                for index in again:
                    self.images.remove(rows[index])
            if not again:
                return
            logger.info(f"{len(again)} image(s) are near-duplicates of earlier ones and are painted again.")
            wanted: dict[range, set[int]] = defaultdict(set)
            for index in set(again) - self._given_up():
                wanted[block_of[index]].add(index)
            with tqdm(total=len(again), unit="image", desc="near-duplicates") as progress:
                for block in sorted(wanted, key=lambda block: block.start):
                    self._paint_block(block, wanted[block], progress.update)


def repaint(images: GeneratedSet, paint: Paint, rows: Sequence[Row], prompts: Sequence[str], seed: int) -> list[Row]:
    """Paint the images of a manifest once more, each in the company it had; what is there already stays.

    Args:
        images: where to; begun.
        paint: as `Painter`, for batches as large as the recorded ones.
        rows: of the manifest.
        prompts: of the set they come from.
        seed: of that set.

    Returns:
        The rows whose image is not, bit for bit, the recorded one.

    Raises:
        UserError: an image cannot be painted or written.
    """
    companies: dict[tuple[tuple[int, ...], int], list[Row]] = defaultdict(list)
    other = []
    for row in rows:
        there = images.row(row["index"], row["prompt_index"])
        if there is None:
            companies[tuple(row["batch"]), row["attempt"]].append(row)
        elif there["sha256"] != row["sha256"]:
            other.append(row)
    with tqdm(total=sum(map(len, companies.values())), unit="image") as progress:
        for (batch, attempt), wanted in companies.items():
            painted = paint(
                [prompt_of(index, prompts)[1] for index in batch], [image_seed(seed, index, attempt) for index in batch]
            )
            for row in wanted:
                new = images.write(painted[batch.index(row["index"])].pixels, _painted_part(row))
                if new["sha256"] != row["sha256"]:
                    other.append(row)
                progress.update()
    return other


def choose(rows: Iterable[Row], indices: Sequence[int] | None) -> list[Row]:
    """The rows with these indices, or all.

    Raises:
        UserError: the manifest has no such row.
    """
    rows = list(rows)
    if indices is None:
        return rows
    by_index = {row["index"]: row for row in rows}
    if absent := [index for index in indices if index not in by_index]:
        raise UserError(f"--images asks for {absent[0]}, which the manifest does not have ({len(rows)} rows).")
    return [by_index[index] for index in indices]


def _painted_part(row: Row) -> Row:
    """A row without what is known only of the file."""
    return {key: value for key, value in row.items() if key not in ("file_name", "size", "sha256")}
