"""Evaluation of a model, or of a file with weights, on the test sets of a config."""

import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode, comm, get_event_storage, inference_on_dataset
from clouds.d2.groups import wait_for_all
from clouds.data.datasets.catalog import dataset_names, domain, load_dataset, require_names
from clouds.data.datasets.digest import dataset_digest
from clouds.data.datasets.selection import PARTS, fit_part, overlap
from clouds.data.loading.loaders import TestLoader
from clouds.data.protocols import Protocol, build_protocols
from clouds.engine.amp import Precision
from clouds.engine.checkpointing.build import load_for_inference
from clouds.engine.checkpointing.weights import trained_sha256
from clouds.engine.hooks import Results
from clouds.engine.inference import Predictions
from clouds.engine.parts import Parts
from clouds.engine.run.evaluations import Evaluated, write_files
from clouds.engine.run.metrics import record_evaluation
from clouds.engine.run.predictions import put_predictions, write_predictions
from clouds.engine.run.record import code_version
from clouds.evaluation.by_protocol import ByProtocol, task_name
from clouds.evaluation.display import Display
from clouds.evaluation.files import ImageCounts
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.evaluation.tables import Provenance, format_table
from clouds.modeling.inference import build_passes
from clouds.utils.devices import cudnn_benchmark
from clouds.utils.signals import Stopped, stop_requested

logger = logging.getLogger(__name__)


class Evaluation(Parts):
    """Evaluates models on the test sets of a config, with loaders and evaluators that a subclass can override."""

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, *, seed: int | None = None, evaluated: Evaluated | None = None
    ) -> Results:
        """Evaluate a model on every set of `evaluated_sets`; all processes call it together.

        One table is logged for each protocol of ``TEST.PROTOCOLS``.

        Evaluation uses full precision unless ``TEST.AMP`` is set, also during a training in mixed precision, so that
        the score of a checkpoint does not depend on where it is measured.

        Args:
            cfg: final config.
            model: predicts the scores of test images; its training mode is restored.
            seed: the model's seed, for the tables; default ``cfg.SEED``.
            evaluated: weights and data, if the main process writes the files of the evaluation, and shows predictions
                in TensorBoard; None to write nothing. In a training, an event storage is open.

        Returns:
            ``{dataset: {"sem_seg": {metric: percent}}}`` in the order of the config, by the first protocol; the scores
            by another one are in ``"sem_seg@<protocol>"``.

        Raises:
            Stopped: a signal has asked some process to stop; raised in all.
        """
        results: Results = {}
        counts: dict[str, int] = {}
        measured: list[ImageCounts] = []
        displays: dict[str, dict[str, Display]] = {}
        seed = cfg.SEED if seed is None else seed
        precision = Precision.from_config(cfg, cfg.TEST.AMP)
        for name in evaluated_sets(cfg):
            loader, evaluators = cls.build_test_loader(cfg, name), cls.build_evaluators(cfg, name)
            counts[name] = sum(comm.all_gather(len(loader)))
            predicting = predictions_for(evaluators, model, cfg)
            with precision.autocast(), cudnn_benchmark(False):  # images have many sizes
                results[name] = inference_on_dataset(predicting, _Stoppable(loader, name), evaluators)
            if comm.is_main_process():
                measured += _counts_of(evaluators)
                displays[name] = _displays_of(evaluators)
        if not results:
            logger.warning("DATASETS.TEST is empty: nothing is evaluated")
        elif comm.is_main_process():
            _log_tables(cfg, results, seed, counts)
            if evaluated is not None:
                folder = write_files(cfg, evaluated, seed, counts, results, measured)
                if evaluated.weights is None:
                    put_predictions(get_event_storage(), displays)
                else:
                    write_predictions(folder, displays, evaluated.iterations or 0)
        return results

    @classmethod
    def test_weights(cls, cfg: CfgNode, *, resume: bool = False) -> Results:
        """Evaluate ``MODEL.WEIGHTS``, or with `resume` the newest checkpoint in ``OUTPUT_DIR`` (see `test`).

        The main process writes the files of the evaluation, and adds the results to ``OUTPUT_DIR/metrics_eval.json``.
        """
        model, rest = cls.load_model(cfg, resume=resume)
        evaluated = _evaluated(cfg, model, rest) if comm.is_main_process() else None
        results = cls.test(cfg, model, seed=rest.get("seed"), evaluated=evaluated)
        if comm.is_main_process():
            record_evaluation(cfg, results, rest["weights"], rest.get("iteration"))
        return results

    @classmethod
    def load_model(cls, cfg: CfgNode, *, resume: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """Check the test sets, then load the model that `test_weights` evaluates, see `read_model`."""
        require_names("DATASETS.TEST", cfg.DATASETS.TEST, cfg.DATASETS.CUSTOM)
        cls.check_test_sets(cfg)
        return cls.read_model(cfg, resume=resume)

    @classmethod
    def read_model(cls, cfg: CfgNode, *, resume: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """Build a model and load its weights.

        Returns:
            The model, and the other entries of its checkpoint, see `load_for_inference`.
        """
        model = cls.build_model(cfg)
        return model, load_for_inference(cfg, model, resume=resume)


def predictions_for(evaluators: ByProtocol, model: nn.Module, cfg: CfgNode) -> Predictions:
    """Return a model that predicts what evaluators read: label maps if all are of this package, scores for others."""
    labels = all(isinstance(evaluator, SemSegEvaluator) for evaluator in evaluators.evaluators.values())
    views = build_passes(cfg)
    return Predictions(model, labels=labels, scales=views.scales, flip=views.flip)


def _evaluated(cfg: CfgNode, model: nn.Module, rest: dict[str, Any]) -> Evaluated:
    """Return what `Evaluation.test_weights` evaluates; see `Evaluation.read_model` for the arguments."""
    digests = {"weights_sha256": trained_sha256(model)}
    if tower := rest.get("tower_sha256"):
        digests["tower_sha256"] = tower
    iteration = rest.get("iteration")
    return Evaluated(
        data={name: dataset_digest(load_dataset(name)) for name in evaluated_sets(cfg)},
        iterations=None if iteration is None else iteration + 1,
        weights=rest["weights"],
        digests=digests,
    )


def _counts_of(evaluators: ByProtocol) -> list[ImageCounts]:
    """Return the counts of all evaluators that keep them, after their evaluation."""
    return [
        evaluator.image_counts(protocol)
        for protocol, evaluator in evaluators.evaluators.items()
        if isinstance(evaluator, SemSegEvaluator)
    ]


def _displays_of(evaluators: ByProtocol) -> dict[str, Display]:
    """Return the images that the evaluators keep to be shown, by id; all are of the main protocol."""
    own = (each for each in evaluators.evaluators.values() if isinstance(each, SemSegEvaluator))
    return {name: display for evaluator in own for name, display in evaluator.displayed.items()}


def _log_tables(cfg: CfgNode, results: Results, seed: int, counts: dict[str, int]) -> None:
    """Log one table for each protocol."""
    protocols = build_protocols(cfg)
    for protocol in protocols:
        task = task_name(protocol.name, protocols[0].name)
        scores = {name: found[task] for name, found in results.items()}
        source = Provenance(_conditions(cfg, protocol), code_version(), seed, counts)
        logger.info("Results\n" + format_table(scores, source))


def _conditions(cfg: CfgNode, protocol: Protocol) -> str:
    """Return the name of a protocol, with the window and the augmentation if there are any."""
    facts = ["test-time augmentation"] if cfg.TEST.AUG.ENABLED else []
    if protocol.window:
        sizes = {"window": protocol.window, "stride": protocol.stride or protocol.window}
        facts = [*(f"{name} {height} x {width}" for name, (height, width) in sizes.items()), *facts]
    return f"{protocol.name} ({', '.join(facts)})" if facts else protocol.name


def report_selection(cfg: CfgNode) -> None:
    """Log a warning if ``TEST.SELECT_ON`` is trained on, or is of no domain that a training learns from."""
    name, trained = cfg.TEST.SELECT_ON, dataset_names(cfg.DATASETS.TRAIN)
    if name in trained:
        logger.warning(f"TEST.SELECT_ON is {name}, which is trained on: the best weights on it may be overfitted")
    elif shared := [each for each in trained if overlap(name, each)]:
        remedy = f"; train on {fit_part(name)} instead" if name in PARTS and PARTS[name].held_out else ""
        logger.warning(
            f"TEST.SELECT_ON is {name}, whose images are among those of {shared[0]} (DATASETS.TRAIN): the best weights "
            f"on it may be overfitted{remedy}"
        )
    elif name and domain(name) not in map(domain, trained):
        logger.warning(
            f"TEST.SELECT_ON is {name}, of another domain than {', '.join(trained)} (DATASETS.TRAIN): model_best.pth "
            "is chosen by it, so its scores there are no longer those of an unseen domain"
        )


class _Stoppable:
    """The batches of a loader, which end with `Stopped` in all processes if one of them has been asked to stop."""

    def __init__(self, loader: TestLoader, name: str) -> None:
        self.loader = loader
        self.name = name

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        stopped = None
        for batch in self.loader:
            if stopped := stop_requested():
                break
            yield batch
        wait_for_all()  # their shares take different times
        if by := next(filter(None, comm.all_gather(stopped)), None):
            raise Stopped(f"Stopped by {by} in the evaluation of {self.name}: the same command evaluates again.")
