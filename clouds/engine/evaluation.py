"""Evaluation of a model, or of a file with weights, on the test sets of a config."""

import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode, DatasetEvaluator, comm, inference_on_dataset
from clouds.d2.groups import wait_for_all
from clouds.data.datasets.catalog import dataset_names, domain, require_names
from clouds.data.loading.loaders import TestLoader
from clouds.engine.amp import Precision
from clouds.engine.checkpointing.build import load_for_inference
from clouds.engine.hooks import Results
from clouds.engine.parts import Parts
from clouds.engine.run.metrics import record_evaluation
from clouds.engine.run.record import code_version
from clouds.evaluation.label_maps import for_labels
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.evaluation.tables import Provenance, format_table
from clouds.utils.devices import cudnn_benchmark
from clouds.utils.signals import Stopped, stop_requested

logger = logging.getLogger(__name__)


class Evaluation(Parts):
    """Evaluates models on the test sets of a config, with loaders and evaluators that a subclass can override."""

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, seed: int | None = None) -> Results:
        """Evaluate a model on every set of `evaluated_sets` and log one table; all processes call it together.

        Evaluation uses full precision unless ``TEST.AMP`` is set, also during a training in mixed precision, so that
        the score of a checkpoint does not depend on where it is measured.

        Args:
            cfg: final config.
            model: predicts the scores of test images; its training mode is restored.
            seed: the model's seed, for the table; default ``cfg.SEED``.

        Returns:
            ``{dataset: {"sem_seg": {metric: percent}}}`` in the order of the config.

        Raises:
            Stopped: a signal has asked some process to stop; raised in all.
        """
        results: Results = {}
        counts: dict[str, int] = {}
        precision = Precision.from_config(cfg, cfg.TEST.AMP)
        for name in evaluated_sets(cfg):
            loader, evaluator = cls.build_test_loader(cfg, name), cls.build_evaluator(cfg, name)
            counts[name] = sum(comm.all_gather(len(loader)))
            predicting = for_evaluator(model, evaluator)
            with precision.autocast(), cudnn_benchmark(False):  # images have many sizes
                results[name] = inference_on_dataset(predicting, _Stoppable(loader, name), evaluator)
        if not results:
            logger.warning("DATASETS.TEST is empty: nothing is evaluated")
        elif comm.is_main_process():
            source = Provenance(cfg.TEST.PROTOCOL, code_version(), cfg.SEED if seed is None else seed, counts)
            logger.info("Results\n" + format_table(results, source))
        return results

    @classmethod
    def test_weights(cls, cfg: CfgNode, *, resume: bool = False) -> Results:
        """Evaluate ``MODEL.WEIGHTS``, or with `resume` the newest checkpoint in ``OUTPUT_DIR`` (see `test`).

        The main process adds the results to ``OUTPUT_DIR/metrics_eval.json``.
        """
        model, rest = cls.load_model(cfg, resume=resume)
        results = cls.test(cfg, model, seed=rest.get("seed"))
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


def for_evaluator(model: nn.Module, evaluator: DatasetEvaluator) -> nn.Module:
    """Return a model that predicts what an evaluator reads: label maps if it can, scores for an evaluator of others."""
    return for_labels(model) if isinstance(evaluator, SemSegEvaluator) else model


def report_selection(cfg: CfgNode) -> None:
    """Log a warning if ``TEST.SELECT_ON`` is no validation set of the domain that a training learns from."""
    name, trained = cfg.TEST.SELECT_ON, dataset_names(cfg.DATASETS.TRAIN)
    if name in trained:
        logger.warning(f"TEST.SELECT_ON is {name}, which is trained on: the best weights on it may be overfitted")
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
