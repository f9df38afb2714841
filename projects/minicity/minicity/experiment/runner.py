"""The experiment in small: which networks are trained, from what, in which order, and what came of them.

A job is one command of the project with a folder of its own: the generation of images, or the training of one variant
with one seed. Jobs run beside each other where they do not need one another, and one that is done is not done again.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from clouds.errors import UserError
from clouds.utils.atomic import atomic_file
from clouds.utils.hashing import model_digest
from clouds.visualization.html_tables import Difference, Score

logger = logging.getLogger(__name__)

SOURCE = "minicity_sim_val"
DRAWS = 100
"""Generated images in an epoch, however many different ones there are, beside the 600 labelled. More of them displace
labelled ones, which teach more: with 300 the student is worse than its warm-up."""
GENERATION = "generation"
Scores = dict[str, dict[int, dict[str, dict[str, float]]]]
"""Key of a variant -> seed -> test set -> score -> percent."""
_POLL = 1.0  # seconds
_IN_A_FILE = 30.0  # between two lines of progress that nobody watches


@dataclass(frozen=True)
class Variant:
    """One row of the table: a way to train.

    Attributes:
        key: name of its folders.
        title: what the table calls it.
        config: file in projects/minicity/configs.
        settings: `KEY VALUE` pairs beside it.
        after: key of the variant whose weights it begins with, of the same seed.
        images: number of generated images that it learns from.
        group: heading above it.
    """

    key: str
    title: str
    config: str
    settings: tuple[str, ...] = ()
    after: str | None = None
    images: int = 0
    group: str = ""

    @property
    def training(self) -> tuple[str, ...]:
        """Its `KEY VALUE` pairs, with what it learns from where that is generated, too."""
        if not self.images:
            return self.settings
        names = str(("minicity_sim_train", generated_name(self.images)))
        return (*self.settings, "DATASETS.TRAIN", names, "DATASETS.TARGET_FACTOR", str(DRAWS / self.images))


@dataclass(frozen=True)
class Job:
    """A command and the folder that it fills.

    Attributes:
        name: unique.
        command: to run; the folder stands in it.
        folder: of its results, with `console.txt` and `job.json`, which tells the command and whether it is done.
        needs: names of the jobs that must be done before.
        steps: how much there is to do, in its own unit.
        inputs: digest of what decides its results beside the command: settings and files that the command only names.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()
    steps: int = 1
    inputs: str = ""

    @property
    def is_done(self) -> bool:
        """Whether this very command has ended well, with these inputs."""
        return self._is_its_own and not math.isnan(self.seconds)

    @property
    def seconds(self) -> float:
        """How long it took; NaN where it is not done."""
        seconds = self._record().get("seconds")
        return math.nan if seconds is None else float(seconds)

    def begin(self) -> None:
        """Remember whose the folder is. What another job has left there moves aside: nobody can go on with it."""
        if self._record() and not self._is_its_own:
            aside = next(path for n in itertools.count(1) if not (path := Path(f"{self.folder}.{n}")).exists())
            logger.warning("%s is of another command or other inputs and becomes %s", self.folder, aside)
            self.folder.rename(aside)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(None)

    def finish(self, seconds: float) -> None:
        """Remember that it is done."""
        self._write(round(seconds, 1))

    def steps_done(self) -> int:
        """Of `steps`, as far as its files tell."""
        if self.is_done:
            return self.steps
        rows = last_line(self.folder / "metrics.json")
        images = self.folder / "images"
        done = int(rows.get("iteration", 0)) if rows else 0
        return min(self.steps, done or (len(list(images.glob("*.png"))) if images.is_dir() else 0))

    @property
    def _is_its_own(self) -> bool:
        record = self._record()
        return (record.get("command"), record.get("inputs")) == (list(self.command), self.inputs)

    def _record(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    def _write(self, seconds: float | None) -> None:
        with atomic_file(self.folder / "job.json") as part:
            record = {"command": list(self.command), "inputs": self.inputs, "seconds": seconds}
            part.write_text(json.dumps(record), encoding="utf-8")


def run_jobs(
    jobs: Sequence[Job], *, workers: int = 1, threads: int | None = None, working_folder: Path | None = None
) -> None:
    """Run what is not done, each job once those it needs are.

    Args:
        jobs: in an order in which they could be run one by one.
        workers: how many at a time.
        threads: for each of them; default an equal share of the cores.
        working_folder: of their commands; default this process's.

    Raises:
        UserError: a job failed; the others that run are ended, and what is done stays.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    waiting = [job for job in jobs if not job.is_done]
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    done = {job.name for job in jobs} - {job.name for job in waiting}
    bar = tqdm(
        total=sum(job.steps for job in jobs),
        unit="step",
        desc="experiment",
        smoothing=0.05,
        mininterval=_POLL if sys.stderr.isatty() else _IN_A_FILE,
    )
    try:
        while waiting or running:
            ready = [job for job in waiting if done.issuperset(job.needs)]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[job] = (_start(job, environment, working_folder), time.perf_counter())
                logger.info("%s: started, %s", job.name, job.folder / "console.txt")
            time.sleep(_POLL)
            for job, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode:
                    raise UserError(f"{job.name} failed: {_last_words(job)} ({job.folder / 'console.txt'} has it all).")
                job.finish(time.perf_counter() - began)
                done.add(job.name)
                logger.info("%s: done in %.0f s", job.name, job.seconds)
            bar.set_postfix_str(", ".join(job.name for job in running), refresh=False)
            bar.update(sum(job.steps if job.name in done else job.steps_done() for job in jobs) - bar.n)
    finally:
        bar.close()
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def plan(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    *,
    root: Path,
    output: Path,
    configs: Path,
    generate: Sequence[str],
    generated_folder: Path,
    iterations: Mapping[str, int],
    inputs: Mapping[str, str],
    settings: Sequence[str] = (),
) -> list[Job]:
    """The jobs of all variants and seeds, those of one seed together.

    Args:
        variants: each after the one that it begins with.
        seeds: of the trainings.
        root: the repository.
        output: folder of the results.
        configs: folder of the variants' configs.
        generate: flags of generate_txt_im.py, but for the name and the number of images.
        generated_folder: of the generated sets.
        iterations: key of a variant -> how many it trains.
        inputs: key of a variant, or `GENERATION`, -> digest of the settings and files behind its command.
        settings: `KEY VALUE` pairs for all of them.
    """
    jobs: dict[str, Job] = {}

    def add(name: str, script: str, flags: Sequence[str], folder: Path, steps: int, own: str, *needs: str) -> None:
        command = (sys.executable, str(root / script), *flags)
        # A job is another one, too, where one of those that it needs is.
        jobs[name] = Job(name, command, folder, needs, steps, digest(own, *(jobs[each].inputs for each in needs)))

    for count in sorted({variant.images for variant in variants} - {0}):
        name = generated_name(count)
        flags = ("--folder", name, "--num-images", str(count), *generate)
        add(name, "generate_txt_im.py", flags, generated_folder / name, count, inputs[GENERATION])
    for seed, variant in itertools.product(seeds, variants):
        folder = run_folder(output, variant.key, seed)
        flags = ("--config-file", str(configs / variant.config), "--resume", *variant.training, *settings)
        flags += ("SEED", str(seed), "OUTPUT_DIR", str(folder))
        needs: tuple[str, ...] = ()
        if variant.after:
            needs += (f"{variant.after} {seed}",)
            flags += ("MODEL.WEIGHTS", str(run_folder(output, variant.after, seed) / "model_final.pth"))
        if variant.images:
            needs += (generated_name(variant.images),)
        steps = iterations[variant.key]
        add(f"{variant.key} {seed}", "train_net.py", flags, folder, steps, inputs[variant.key], *needs)
    return list(jobs.values())


def digest(*parts: str | Path) -> str:
    """Short fingerprint of texts, of files and of models' folders (`model_digest`)."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(model_digest(part).encode() if part.is_dir() else part.read_bytes())
    return found.hexdigest()[:16]


def run_folder(output: Path, key: str, seed: int) -> Path:
    """Of a variant's training."""
    return output / key / f"seed{seed}"


def generated_name(count: int) -> str:
    """Of the set of so many generated images."""
    return f"sd_minicity_{count}"


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Test set -> score -> percent, of the last evaluation that a training in `folder` has recorded.

    Raises:
        UserError: there is none.
    """
    scores: dict[str, dict[str, float]] = {}
    for key, value in (last_line(folder / "metrics.json") or {}).items():
        name, kind, score = (*key.split("/", 2), "", "")[:3]
        if kind == "sem_seg":
            scores.setdefault(name, {})[score] = float("nan") if value is None else float(value)
    if not scores:
        raise UserError(f"{folder / 'metrics.json'} has no evaluation: was the training interrupted?")
    return scores


def unseen_mean(scores: Mapping[str, Mapping[str, float]], score: str = "mIoU") -> float:
    """Mean over the test sets but the source's."""
    return fmean(values[score] for name, values in scores.items() if name != SOURCE)


def spread(values: Sequence[float]) -> Score:
    """Mean and standard deviation (n - 1) of single runs, at least one; one alone has no deviation."""
    mean = fmean(values)
    if len(values) < 2:
        return Score(mean)
    return Score(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)), len(values))


def paired_difference(label: str, values: Mapping[int, float], others: Mapping[int, float]) -> Difference:
    """Of `values` less `others`, both by seed, over the seeds that both have; its standard error is std / sqrt(n)."""
    found = spread([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])
    return Difference(label, found.mean, found.std / math.sqrt(found.count), found.count)


def last_line(file: Path) -> dict[str, Any] | None:
    """The last row of a JSON-lines file that can be read; None where there is none."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines[-2:]):  # the very last may be in the middle of being written
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        return row
    return None


def _start(job: Job, environment: Mapping[str, str], folder: Path | None) -> subprocess.Popen[bytes]:
    job.begin()
    with (job.folder / "console.txt").open("ab") as console:
        console.write(f"$ {shlex.join(job.command)}\n".encode())
        console.flush()
        return subprocess.Popen(
            job.command, stdout=console, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder
        )


def _last_words(job: Job) -> str:
    lines = (job.folder / "console.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ").rstrip(".") if lines else "it said nothing"
