"""Files of the runs of an experiment beside their scores: counts of each image, and how they were measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clouds.config.settings import Settings, read_settings
from clouds.engine.run.metrics import conditions, recorded_protocol
from clouds.engine.run.record import read_record
from clouds.evaluation.by_protocol import SEM_SEG
from clouds.evaluation.files import EvaluationFiles, ImageCounts, final_evaluation
from clouds.experiments.results import Results, RunScores
from clouds.experiments.statistics import PairedCounts

_TOLERANCE = 0.05  # percentage points by which the scores of the same weights may differ between machines


@dataclass(frozen=True)
class RunFiles:
    """Files of one run.

    Attributes:
        folder: output folder.
        evaluation: files of its evaluation; None if there are none of the reported scores.
        entry: newest entry of its record; empty if there is none.
        missing: sentence that says what is missing and how to get it; "" if nothing is.
    """

    folder: Path
    evaluation: EvaluationFiles | None
    entry: Mapping[str, Any]
    missing: str = ""
    _counts: dict[str, ImageCounts] = field(default_factory=dict)

    @cached_property
    def settings(self) -> Settings:
        """The recorded config; empty if there is none."""
        file = self.folder / str(self.entry.get("config", ""))
        return read_settings(file) if file.is_file() else {}

    @property
    def protocol(self) -> str:
        """Main protocol, with what the evaluation adds to it; "" if unknown."""
        if self.evaluation is not None:
            return str(self.evaluation.about.get("protocol", ""))
        name = recorded_protocol(self.settings)
        return name + conditions(self.settings) if name else ""

    @property
    def data(self) -> Mapping[str, str]:
        """Data set -> digest; empty if unknown."""
        found: Mapping[str, str] = (self.evaluation.about.get("data") if self.evaluation else None) or {}
        return found or self.entry.get("data", {})

    @property
    def commit(self) -> str:
        """Commit of the code; "" if unknown."""
        return str((self.evaluation.about if self.evaluation else self.entry.get("code", {})).get("commit") or "")

    def counts(self, test_set: str) -> ImageCounts | None:
        """Return the counts of each image of a test set by the main protocol; None if there are none."""
        if test_set not in self._counts:
            evaluation = self.evaluation
            if evaluation is None or (test_set, evaluation.about["protocols"][0]) not in evaluation.sets:
                return None
            self._counts[test_set] = evaluation.counts(test_set)
        return self._counts[test_set]


class Evidence:
    """Files of all runs of an experiment.

    Attributes:
        runs: key of a variant -> seed -> files of that run.
    """

    def __init__(self, results: Results) -> None:
        """
        Raises:
            UserError: a record or an evaluation is damaged.
        """
        self.runs = {
            key: {seed: read_files(results.folders[key][seed], scores) for seed, scores in by_seed.items()}
            for key, by_seed in results.scores.items()
            if key in results.folders
        }

    def all_runs(self) -> list[RunFiles]:
        """Return the files of all runs."""
        return [run for by_seed in self.runs.values() for run in by_seed.values()]

    def missing(self) -> list[str]:
        """Return a sentence for each run that lacks files."""
        return [run.missing for run in self.all_runs() if run.missing]

    def counts(self, key: str, test_set: str) -> list[ImageCounts]:
        """Return the counts of the runs of a row on a test set, in the order of their seeds."""
        found = [run.counts(test_set) for _, run in sorted(self.runs.get(key, {}).items())]
        return [each for each in found if each is not None]

    def paired(self, first: str, second: str, test_set: str) -> PairedCounts | None:
        """Return the counts of two rows on a test set, of their common seeds or else of all; None without counts."""
        common = self.runs.get(first, {}).keys() & self.runs.get(second, {}).keys()
        pair = []
        for key in (first, second):
            runs = self.runs.get(key, {})
            counts = [runs[seed].counts(test_set) for seed in sorted(common or runs)]
            known = [each for each in counts if each is not None]
            if not known or len(known) < len(counts):
                return None
            pair.append(known)
        example = pair[0][0]
        if any((each.images, each.classes) != (example.images, example.classes) for known in pair for each in known):
            return None
        first_counts, second_counts = (np.stack([each.counts for each in known]) for known in pair)
        groups = [str(Path(file).parent) for file in example.files]
        return PairedCounts(first_counts, second_counts, groups, example.absent)

    def fault(self, first: str, second: str, test_sets: Sequence[str]) -> str:
        """Return why two rows must not be compared, as the end of a sentence; "" if nothing speaks against it."""
        runs = [run for key in (first, second) for run in self.runs.get(key, {}).values()]
        protocols = sorted({run.protocol for run in runs if run.protocol})
        if len(protocols) > 1:
            return f"they were measured by different protocols: {' and '.join(protocols)}"
        for name in test_sets:
            if len({run.data[name] for run in runs if name in run.data}) > 1:
                return f"the files of {name} differ, see the digests in run.json"
            if len({counts.images for run in runs if (counts := run.counts(name))}) > 1:
                return f"they were measured on different images of {name}"
            if len({counts.classes for run in runs if (counts := run.counts(name))}) > 1:
                return f"they were measured with different classes of {name}"
        return ""


def read_files(folder: Path, scores: RunScores) -> RunFiles:
    """Read the files of a run.

    Args:
        folder: its output folder.
        scores: scores that are reported; an evaluation with others is that of other weights.

    Raises:
        UserError: the record or the evaluation is damaged.
    """
    record = read_record(folder)
    entry = record[-1] if record else {}
    evaluation = final_evaluation(folder)
    remedy = f"evaluate again: clouds eval --config-file {folder / entry.get('config', 'config.yaml')}"
    if evaluation is None:
        return RunFiles(
            folder,
            None,
            entry,
            f"{folder} has no counts of its images, so its confusion matrices, intervals over images, and worst and "
            f"best images are missing: {remedy} MODEL.WEIGHTS {folder / 'model_final.pth'}.",
        )
    if not _agree(evaluation, scores):
        return RunFiles(
            folder, None, entry, f"The files in {evaluation.folder} have other scores than the run: {remedy}."
        )
    return RunFiles(folder, evaluation, entry)


def _agree(evaluation: EvaluationFiles, scores: RunScores) -> bool:
    """Whether an evaluation has these scores, where it has any."""
    for name, tasks in evaluation.about["scores"].items():
        found, reported = tasks.get(SEM_SEG, {}).get("mIoU"), scores.get(name, {}).get("mIoU", math.nan)
        if found is not None and abs(found - reported) > _TOLERANCE:  # never true for NaN
            return False
    return True
