"""Training and evaluation as a command starts them, in one process or several."""

import argparse
from pathlib import Path

from clouds.d2 import CfgNode
from clouds.engine.dry_run import dry_run, temporary_places
from clouds.engine.launch import launch
from clouds.engine.preflight import enough_memory
from clouds.engine.run.output_folder import release
from clouds.engine.setup import config_with_dataset, default_setup, refuse_broken_sets
from clouds.engine.trainer import Trainer


def start(cfg: CfgNode, args: argparse.Namespace, trainer: type[Trainer] = Trainer) -> None:
    """Call `train_or_evaluate` in every process of the run, or `dry_run` with ``args.dry_run``.

    Args:
        cfg: config that was read from ``args.config_file`` and ``args.opts``, not frozen yet.
        args: command line of ``clouds train``, see `clouds.commands.train.parse_arguments`.
        trainer: class of the trainer; a class of a module, so that it can be sent to other processes.

    Raises:
        UserError: the data set of ``--dataset`` is wrong, or see `clouds.engine.launch.launch`.
    """
    cfg = config_with_dataset(cfg, args.config_file, args.opts, args.dataset)
    if args.dry_run:
        with temporary_places(cfg, resume=args.resume) as (temporary, real):
            launch(dry_run, args, cfg.MODEL.DEVICE, (temporary, args, trainer, real))
    else:
        launch(train_or_evaluate, args, cfg.MODEL.DEVICE, (cfg, args, trainer))


@enough_memory()
def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace, trainer: type[Trainer] = Trainer) -> None:
    """Train, or evaluate with ``args.eval_only``, in this process.

    Args:
        cfg: merged config, not frozen yet; `default_setup` completes and freezes it.
        args: parsed command line: ``resume``, ``resume_anyway``, ``eval_only``, ``force``, ``check_data``.
        trainer: class of the trainer.
    """
    try:
        default_setup(cfg, args)
        if args.eval_only:
            trainer.test_weights(cfg, resume=args.resume)
            return
        if not args.force:
            refuse_broken_sets(cfg, full=args.check_data)
        training = trainer(cfg)
        training.preflight.forced = args.force
        training.resume_or_load(resume=args.resume)
        training.train()
    finally:
        release(Path(cfg.OUTPUT_DIR))
