"""`torch.compile` of backbone and head, with the backends "eager" and `CompileCounter`, which need no compiler.

Everything is compiled as one graph, otherwise it is an error.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import clouds.clouds
import clouds.modeling.moving_average
from clouds.clouds import CLOUDS
from clouds.d2 import build_model
from clouds.modeling.backbone.towers import bfloat16_copy, feature_maps, image_tower, tower_stages
from clouds.modeling.compilation import compile_forward
from clouds.self_training.teacher import Teacher
from tests.parity import golden

pytestmark = pytest.mark.slow

LEVELS = ("res2", "res3", "res4", "res5")


def small(case: str, *opts: object) -> CLOUDS:
    """Build a golden network with one layer of each kind, since tracing takes seconds a layer."""
    layers = ("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)
    return build_model(golden.golden_config(case, *layers, *opts))


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Backend of everything that is compiled; its `frame_count` is the number of graphs."""
    backend = CompileCounter()
    for module in (clouds.clouds, clouds.modeling.moving_average):
        monkeypatch.setattr(module, "compile_forward", functools.partial(compile_forward, backend=backend))
    return backend


def test_convnext_and_text_head_have_no_graph_break_under_amp() -> None:
    model = small("convnext_text")
    images = golden.tensor("backbone_convnext", "images_norm")
    text = model.text_classifier(model.train_classes)
    stages = bfloat16_copy(tower_stages(image_tower(model.backbone.clip_model)))
    with torch.autocast("cpu", torch.bfloat16):
        features = model.backbone(images)
        parts: list[tuple[Callable, tuple]] = [
            (feature_maps, (stages, images, LEVELS)),
            (model.sem_seg_head, (features, text, model.void)),
        ]
        for function, args in parts:
            torch.compiler.reset()
            explained = torch._dynamo.explain(function)(*args)
            assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


def losses_and_gradients(model: CLOUDS) -> tuple[dict[str, Tensor], list[Tensor]]:
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(golden.batch())
    sum(losses.values()).backward()
    return losses, [p.grad for p in model.parameters() if p.grad is not None]


def test_a_compiled_model_trains_and_predicts_at_all_sizes_as_without(counter: CompileCounter) -> None:
    plain, compiled = small("rn_closed"), small("rn_closed", "MODEL.COMPILE", True)
    compiled.load_state_dict(plain.state_dict())
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(losses_and_gradients(compiled), losses_and_gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert counter.frame_count == 2, "tower and head"
    plain.eval()
    compiled.eval()
    counts = []
    for batch, height, width in ((2, 96, 128), (3, 128, 160), (4, 160, 96)):
        inputs = [{"image": torch.randint(256, (3, height, width))} for _ in range(batch)]
        with torch.no_grad():
            torch.testing.assert_close(compiled(inputs), plain(inputs))
        counts.append(counter.frame_count)
    assert counts == [4, 6, 6], "in full precision without gradient; then with variable sizes, which fit all others"


def test_the_teacher_is_compiled_too(counter: CompileCounter) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    head = Head()
    model = nn.ModuleDict({"sem_seg_head": head})
    compile_forward(head, backend=counter)
    student = head(torch.ones(1, 2))
    teacher = Teacher(0.9, compiled=True)
    teacher.start(model)
    assert torch.equal(teacher.model.sem_seg_head(torch.ones(1, 2)), student)
    assert counter.frame_count == 2, "student and teacher"
    with torch.no_grad():
        head.layer.bias += 10
    teacher.update(model)
    torch.testing.assert_close(teacher.model.sem_seg_head(torch.ones(1, 2)), student + 1)
    torch.testing.assert_close(head(torch.ones(1, 2)), student + 10)
    assert list(teacher.state_dict()) == list(head.state_dict())


def test_an_operation_that_cannot_be_compiled_is_an_error() -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x + 1

    module = Reading()
    compile_forward(module, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        module(torch.ones(2))
