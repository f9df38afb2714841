"""Evaluation of a network that `clouds.load` takes, which needs no data set of its training."""

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from clouds.api.hub import files_of
from clouds.api.loading import find_files, load_trained, read_network_config
from clouds.clouds import CLOUDS
from clouds.config.classes import class_names
from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode
from clouds.data.datasets.custom import dataset_settings
from clouds.engine.checkpointing.origin import CLASSES_REMEDY, check_test_classes, differing_classes, has_text_head
from clouds.engine.trainer import Trainer
from clouds.engine.training import start
from clouds.errors import UserError


def evaluate_network(args: argparse.Namespace) -> None:
    """Evaluate the network ``args.model`` on ``DATASETS.TEST``, in as many processes as the flags ask for.

    Args:
        args: command line of ``clouds eval``, see `clouds.commands.train.parse_arguments`.

    Raises:
        UserError: the network cannot be loaded, or a data set is missing or has other classes.
    """
    files = files_of(args.model)
    options = [*(_test_set(args.dataset) if args.dataset else ()), *args.opts]
    cfg = read_network_config(files, args.config_file or None, options, "auto").clone()
    cfg.defrost()
    start(cfg, argparse.Namespace(**{**vars(args), "dataset": None}), NetworkEvaluator)


class NetworkEvaluator(Trainer):
    """Evaluates the network of ``MODEL.WEIGHTS`` as `clouds.load` loads it."""

    @classmethod
    def read_model(cls, cfg: CfgNode, *, resume: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """Load the network, and check that it predicts the classes of every set of `evaluated_sets`."""
        weights = cfg.MODEL.WEIGHTS
        trained = load_trained(find_files(weights), cfg)
        network, sets = trained.network, evaluated_sets(cfg)
        if has_text_head(network):
            check_test_classes(cfg, network)
            if isinstance(network, CLOUDS):
                network.test_classes = tuple(class_names(sets))
        else:
            classes = getattr(network, "train_classes", trained.classes)
            for name in sets:
                if difference := differing_classes(classes, class_names((name,))):
                    raise UserError(
                        f"{weights} was trained on other classes than {name} has ({difference}): {CLASSES_REMEDY}."
                    )
        return network, {"weights": weights, "iteration": trained.iterations - 1 if trained.iterations else None}


def _test_set(dataset: str | Path) -> list[str]:
    """Return the config keys and values that ``--dataset`` stands for in an evaluation; the network keeps its own."""
    words = dataset_settings(Path(dataset))
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for key, value in pairs if key in ("DATASETS.CUSTOM", "DATASETS.TEST") for word in (key, value)]
