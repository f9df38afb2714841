"""Whole training steps: labelled images alone, and joint training with teacher and SAM."""

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from types import SimpleNamespace

import torch
from torch import Tensor

from clouds.data.loading.loaders import TrainBatches
from clouds.engine.amp import Precision
from clouds.engine.hooks.self_training import SelfTrainingHook
from clouds.engine.losses import mean_losses
from clouds.engine.optimizer import build_gradient_clipper, build_optimizer
from clouds.modeling.structures import ImageDict
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller
from clouds.self_training.teacher import Teacher
from stages.bench import Bench
from stages.foundation import build_random_sam
from stages.inputs import Inputs
from stages.peers import PEER, PeerStep, build_peer

SAM_KINDS = ("none", "mobile", "vit_h")


class Step:
    """A training step as `clouds.engine.trainer.Trainer` makes it: forward, backward, update, losses to the host."""

    def __init__(self, inputs: Inputs) -> None:
        self.model = inputs.model
        self.optimizer = build_optimizer(inputs.cfg, self.model)
        self.clip = build_gradient_clipper(inputs.cfg)

    def __call__(self, batch: Sequence[ImageDict]) -> dict[str, float]:
        self.optimizer.zero_grad()
        losses = self.model(batch)
        torch.stack([*losses.values()]).sum().backward()
        self.clip(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.optimizer.step()
        return dict(zip(losses, mean_losses(losses).tolist()[:-1], strict=True))


def measure_labelled_step(bench: Bench, inputs: Inputs) -> None:
    """Measure a step on labelled images, from the upload to the update; the peer is the same step of HF Mask2Former."""
    images = inputs.sizes.batch
    peer_step = PeerStep(build_peer(smoke=bench.smoke), inputs.pixels, inputs.targets)
    for name in ("default", "tf32", "bf16"):
        with bench.precision(name):
            bench.time(f"step/{PEER}/{name}", peer_step, images=images, seconds=3)
    del peer_step

    run = partial(Step(inputs), inputs.batch())
    for name in ("default", "tf32", "bf16"):
        with bench.precision(name):
            bench.time(f"step/{name}", run, peer=f"step/{PEER}/{name}", images=images, seconds=3)
            bench.note_host(f"step/{name}/host", run)


class DrawnLabels(PseudoLabeller):
    """A labeller that labels every image with one given label map: a teacher with random weights finds no regions."""

    def __init__(self, labels: Tensor, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.labels = labels.to(torch.uint8)

    def __call__(
        self,
        maps: Sequence[Tensor],
        images: Sequence[Tensor],
        seeds: Sequence[int | None],
        class_names: Sequence[str],
    ) -> list[PseudoLabel]:
        return super().__call__([self.labels.to(maps[0].device)] * len(maps), images, seeds, class_names)


def measure_joint_step(bench: Bench, inputs: Inputs) -> None:
    """Measure a step in which some images are labelled by the teacher, without SAM and with two kinds of it.

    The peer is the joint step without SAM; of that step, it is the labelled step.
    """
    step, batch = Step(inputs), inputs.batch(inputs.sizes.generated)
    teacher, device = Teacher(0.999), inputs.model.device
    # As in most iterations, the teacher labels the next batch beside the step.
    endless = repeat(SimpleNamespace(samples=batch.copy))
    batches = TrainBatches(SimpleNamespace(hand_out=lambda _: None), endless)
    trainer = SimpleNamespace(model=inputs.model, iter=1, max_iter=1000, batches=batches)
    for kind in SAM_KINDS[:2] if bench.smoke else SAM_KINDS:
        if bench.left() < 40 and not bench.smoke:
            bench.note(f"joint/{kind}/skipped", seconds_left=bench.left())
            break
        sam = None if kind == "none" else build_random_sam(kind, bench)
        labeller = DrawnLabels(inputs.labels[0], sam=sam, min_area=50 if bench.smoke else 5000)
        hook = SelfTrainingHook(teacher, labeller, update_period=1000, ahead=device.type == "cuda")
        hook.trainer = trainer
        hook.before_train()

        def joint(hook: SelfTrainingHook = hook) -> None:
            step(hook.label(next(batches)))
            hook.after_step()
            teacher.update(inputs.model)

        for name in ("default", "bf16"):
            peer = f"step/{name}" if kind == "none" else f"joint/none/{name}"
            hook.after_train()
            # The thread has an autocast of its own.
            trainer.precision = Precision(device.type, torch.bfloat16 if name == "bf16" else None)
            with bench.precision(name):
                bench.time(f"joint/{kind}/{name}", joint, peer=peer, images=inputs.sizes.batch, seconds=3)
        bench.note_host(f"joint/{kind}/host", joint)
        hook.after_train()
