"""Hooks of the training loop, one module per concern; `Trainer.build_hooks` fixes their order."""

from clouds.engine.hooks.checkpointing import BestCheckpoint, History, PeriodicCheckpoint
from clouds.engine.hooks.continuation import Continuation
from clouds.engine.hooks.evaluation import PeriodicEvaluation, Results
from clouds.engine.hooks.learning_rate import LearningRate
from clouds.engine.hooks.pseudo_label_monitor import PseudoLabelMonitor, build_pseudo_label_monitor
from clouds.engine.hooks.self_training import SelfTrainingHook, build_self_training_hook, check_student
from clouds.engine.hooks.skipped_images import SkippedImages
from clouds.engine.hooks.timing import IterationTimer
from clouds.engine.hooks.weight_average import WeightAverage, build_weight_average
from clouds.engine.hooks.writing import PeriodicWriter

__all__ = [
    "BestCheckpoint",
    "Continuation",
    "History",
    "IterationTimer",
    "LearningRate",
    "PeriodicCheckpoint",
    "PeriodicEvaluation",
    "PeriodicWriter",
    "PseudoLabelMonitor",
    "Results",
    "SelfTrainingHook",
    "SkippedImages",
    "WeightAverage",
    "build_pseudo_label_monitor",
    "build_self_training_hook",
    "build_weight_average",
    "check_student",
]
