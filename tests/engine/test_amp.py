"""Mixed precision: close to full precision, finite where half precision is not, with clear errors."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clouds.clouds import CLOUDS
from clouds.config import load_config
from clouds.d2 import CfgNode
from clouds.engine.amp import LossScaler, Precision
from clouds.engine.losses import NonFiniteLoss
from clouds.engine.trainer import Trainer
from clouds.modeling.criterion import SetCriterion
from clouds.modeling.layers import full_precision, mask_pool
from clouds.modeling.matcher import pad_targets
from clouds.modeling.structures import Prediction, Target
from clouds.modeling.text_classifier import TextClassifier
from tests.engine.test_resume import killed_and_resumed, same, train, trained
from tests.parity import golden

HALF = [torch.bfloat16, torch.float16]


class TestChoice:
    @pytest.mark.parametrize(
        ("device", "dtype", "has_bf16", "chosen"),
        [
            ("cpu", "auto", True, torch.bfloat16),
            ("cpu", "auto", False, None),
            ("mps", "auto", True, None),
            ("cpu", "bfloat16", False, torch.bfloat16),
            ("cpu", "float16", False, torch.float16),
            ("cuda:1", "auto", True, torch.bfloat16),
            ("cuda", "auto", False, torch.float16),
            ("cuda", "float16", True, torch.float16),
        ],
    )
    def test_by_device_and_key(
        self,
        device: str,
        dtype: str,
        has_bf16: bool,
        chosen: torch.dtype | None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # Every GPU has emulated bfloat16, which must not be used.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bf16
        )
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_bf16)
        caplog.set_level(logging.INFO)
        cfg = load_config(None, ["MODEL.DEVICE", device, "SOLVER.AMP.DTYPE", dtype])
        caplog.clear()  # reading the config reports that the key has no effect without SOLVER.AMP.ENABLED
        precision = Precision.from_config(cfg, enabled=True)
        assert (precision.dtype, precision.device) == (chosen, device.partition(":")[0])
        assert len(caplog.records) == 1
        assert ("loss scaling" in caplog.text) is (chosen is torch.float16)
        assert ("Full precision" in caplog.text) is (chosen is None)

    def test_off_is_the_default(self, caplog: pytest.LogCaptureFixture) -> None:
        cfg = load_config(None, ["MODEL.DEVICE", "cpu", "SOLVER.AMP.DTYPE", "bfloat16"])
        caplog.clear()
        assert Precision.from_config(cfg, cfg.SOLVER.AMP.ENABLED).dtype is None
        assert Precision.from_config(cfg, cfg.TEST.AMP).dtype is None
        assert not caplog.records

    @pytest.mark.parametrize(("dtype", "scales"), [(None, False), (torch.bfloat16, False), (torch.float16, True)])
    def test_only_float16_is_scaled(self, dtype: torch.dtype | None, scales: bool) -> None:
        assert Precision("cpu", dtype).build_scaler().is_enabled() is scales


@pytest.fixture(scope="module", params=["convnext_text", "rn_closed"])
def model(request: pytest.FixtureRequest) -> CLOUDS:
    return golden.build(request.param)


def losses_and_gradients(model: CLOUDS, dtype: torch.dtype | None) -> tuple[dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(0)
    model.train().zero_grad()
    with Precision("cpu", dtype).autocast():
        losses = model(golden.batch())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {name: loss.item() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("dtype", HALF)
def test_losses_and_gradients_are_close_to_full_precision(model: CLOUDS, dtype: torch.dtype) -> None:
    exact, exact_gradients = losses_and_gradients(model, None)
    exact_norm = torch.nn.utils.get_total_norm(exact_gradients.values()).item()
    half, gradients = losses_and_gradients(model, dtype)
    # bfloat16 has 8 bits: 0.4 % per rounding. Measured: at most 0.5 % and 0.1 %.
    assert half == pytest.approx(exact, rel=0.02 if dtype is torch.bfloat16 else 0.005)
    assert half != exact, "autocast was at work"
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    norm = torch.nn.utils.get_total_norm(gradients.values()).item()
    assert norm == pytest.approx(exact_norm, rel=0.05)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("ensemble", [False, True])
def test_scores_are_close_to_full_precision(model: CLOUDS, dtype: torch.dtype, ensemble: bool) -> None:
    model.eval()
    model.geometric_ensemble = model.ensemble_on_valid_mask = ensemble
    with torch.no_grad():
        exact = model(golden.batch())[0]["sem_seg"]
        with Precision("cpu", dtype).autocast():
            half = model(golden.batch())[0]["sem_seg"]
    model.geometric_ensemble = model.ensemble_on_valid_mask = False
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.02 * exact.max().item())


def test_text_is_embedded_in_full_precision(model: CLOUDS) -> None:
    names = ("road,street", "zebra")
    with Precision("cpu", torch.bfloat16).autocast():
        first = model.backbone.text_classifier(names).embeddings
    model.backbone._text_classifiers.clear()
    torch.testing.assert_close(first, model.backbone.text_classifier(names).embeddings, rtol=0, atol=0)


def test_features_beyond_half_precision_leave_head_and_losses_finite(model: CLOUDS) -> None:
    tower = "convnext" if model.sem_seg_head.uses_text else "rn"
    features = {name: golden.tensor(f"backbone_{tower}", name) * 1e6 for name in ("res2", "res3", "res4", "res5")}
    model.train()
    mask_features = model.sem_seg_head.pixel_decoder.mask_features
    scaled = {key: value * 1e6 for key, value in mask_features.state_dict().items()}
    kept = {key: value.clone() for key, value in mask_features.state_dict().items()}
    mask_features.load_state_dict(scaled)
    with Precision("cpu", torch.float16).autocast():
        predictions = model.sem_seg_head(features, model.text_classifier(model.train_classes), model.void)
        losses = model.criterion(predictions, targets())
    mask_features.load_state_dict(kept)
    assert predictions[-1].mask_logits.abs().max() > 65504
    for prediction in predictions:
        assert all(x.dtype == torch.float32 and x.isfinite().all() for x in prediction[:2])
    assert all(loss.isfinite() for loss in losses.values())


def targets() -> list[Target]:
    return [
        Target(x["instances"].gt_classes, torch.nn.functional.pad(x["instances"].gt_masks, (0, 128 - w, 0, 96 - h)))
        for x in golden.batch()
        for h, w in [x["instances"].image_size]
    ]


@pytest.mark.parametrize("dtype", HALF)
def test_matcher_and_losses_take_half_precision_predictions(model: CLOUDS, dtype: torch.dtype) -> None:
    """Logits at the end of float16's range: products, and sums over points, are out of its range."""
    torch.manual_seed(1)
    shapes = {"class_logits": (2, 25, 20), "mask_logits": (2, 25, 24, 32)}
    values = {name: (60000 * torch.rand(shape) - 30000).to(dtype) for name, shape in shapes.items()}

    def run(kind: torch.dtype) -> tuple[dict[str, Tensor], list, list[Tensor]]:
        leaves = {name: value.clone().to(kind).requires_grad_() for name, value in values.items()}
        criterion: SetCriterion = model.criterion
        torch.manual_seed(2)
        with Precision("cpu", None if kind is torch.float32 else dtype).autocast():
            losses = criterion([Prediction(**leaves)], targets())
            points = torch.rand(1, 2, criterion.matcher.num_points, 2) * 2 - 1
            matching = list(criterion.matcher([Prediction(**leaves)], pad_targets(targets()), points))
        sum(losses.values()).backward()
        return losses, matching, [leaf.grad for leaf in leaves.values()]

    losses, matching, gradients = run(dtype)
    exact, exact_matching, _ = run(torch.float32)
    assert same(losses, exact), "the same numbers, only stored in half the bits"
    assert same(matching, exact_matching)
    assert losses["loss_mask"] > 1000
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", HALF)
def test_mask_pooling_of_empty_and_of_huge_masks(dtype: torch.dtype) -> None:
    features = torch.ones(1, 4, 300, 300, dtype=dtype)  # 90,000 pixels, which float16 cannot count
    logits = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 300, 300).to(dtype)
    with Precision("cpu", dtype).autocast():
        pooled = mask_pool(features, logits)
    torch.testing.assert_close(pooled, torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(1, 2, 4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_similarity_of_an_embedding_that_is_zero_or_huge(dtype: torch.dtype) -> None:
    text = TextClassifier(torch.eye(3), (1, 2))
    x = torch.tensor([[0.0, 0.0, 0.0], [5e4, 5e4, 0.0]], dtype=dtype)
    with Precision("cpu", dtype).autocast():
        logits = text.logits(x, torch.ones(1, 3), torch.tensor(10.0))
    expected = [[0.0, 0.0, 0.0], [100 / math.sqrt(2), 100 / math.sqrt(2), 100 * math.sqrt(2 / 3)]]
    torch.testing.assert_close(logits, torch.tensor(expected))


def test_full_precision_ends_with_the_function() -> None:
    @full_precision
    def product(x: Tensor) -> tuple[Tensor, bool]:
        return x @ x, torch.is_autocast_enabled("cpu")

    x = torch.eye(2)
    with torch.autocast("cpu", torch.bfloat16):
        inside, enabled = product(x)
        assert (x @ x).dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert not enabled


class Watched(Trainer):
    """Records the precision in which the network runs."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        model = super().build_model(cfg)
        model.seen = {True: set(), False: set()}
        model.sem_seg_head.register_forward_hook(lambda head, _, output: model.seen[model.training].add(output.dtype))
        return model


@pytest.mark.parametrize("evaluate", [False, True])
def test_training_and_evaluation_each_by_their_key(tiny_cfg: CfgNode, tmp_path: Path, evaluate: bool) -> None:
    tiny_cfg.merge_from_list(["SOLVER.AMP.ENABLED", not evaluate, "SOLVER.AMP.DTYPE", "bfloat16", "TEST.AMP", evaluate])
    tiny_cfg.SOLVER.MAX_ITER = 2
    trainer = train(tiny_cfg, tmp_path, kind=Watched)
    half, full = {torch.bfloat16}, {torch.float32}
    assert trainer.model.seen == ({True: full, False: half} if evaluate else {True: half, False: full})
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert "scaler" not in torch.load(tmp_path / "model_final.pth")


def amp16(cfg: CfgNode) -> CfgNode:
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16", "TEST.EVAL_PERIOD", 0])
    return cfg


def test_the_loss_scale_is_resumed(tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scale that grows every third step and starts too high, so that steps are skipped before and after."""
    build = Precision.build_scaler

    def eager(precision: Precision) -> LossScaler:
        scaler = build(precision)
        scaler._init_scale = 2.0**21
        scaler.set_growth_interval(3)
        return scaler

    monkeypatch.setattr(Precision, "build_scaler", eager)
    amp16(tiny_cfg).SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 16, 8
    train(tiny_cfg, tmp_path / "straight")
    killed_and_resumed(tiny_cfg, tmp_path / "killed", 7)
    ours, theirs = (trained(tmp_path / run / "model_final.pth") for run in ("killed", "straight"))
    assert same(ours, theirs)
    early = torch.load(tmp_path / "straight" / "model_0000007.pth")["scaler"]
    assert early.keys() == {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
    assert (early["scale"], early["_growth_tracker"]) != (2.0**21, 0), "or forgetting it would not show"
    log = (tmp_path / "straight" / "log.txt").read_text()
    assert "step skipped, the scale is" in log


class Overflowing(Trainer):
    """From iteration 1 on, the gradient (not the loss) is infinite for ``times`` steps."""

    times = 1

    def run_step(self) -> None:
        if self.iter == 1:
            head = self.model.sem_seg_head.weight
            left = [self.times]

            def overflow(gradient: Tensor) -> Tensor:
                left[0] -= 1
                return gradient * math.inf if left[0] >= 0 else gradient

            head.register_hook(overflow)
            self.before = head.detach().clone()
        super().run_step()
        if self.iter == 1:
            self.skipped = torch.equal(self.before, self.model.sem_seg_head.weight)


def test_a_gradient_that_overflows_skips_its_step(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    amp16(tiny_cfg).SOLVER.MAX_ITER = 3
    trainer = train(tiny_cfg, tmp_path, kind=Overflowing)
    assert trainer.skipped
    assert not torch.equal(trainer.before, trainer.model.sem_seg_head.weight), "the next one is taken"
    assert trainer.scaler.get_scale() == 2**15
    log = (tmp_path / "log.txt").read_text()
    assert "The gradient overflowed at loss scale 65536: step skipped, the scale is now 32768" in log


def test_a_gradient_that_no_scale_helps_stops_with_the_images(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    amp16(tiny_cfg).SOLVER.MAX_ITER = 30
    with pytest.raises(NonFiniteLoss) as caught:
        train(tiny_cfg, tmp_path, kind=type("Never", (Overflowing,), {"times": 99}))
    message = str(caught.value)
    assert message.startswith(
        "Training stopped at iteration 17: the gradient is not finite, whatever the loss scale on /"
    )
    assert "/train/images/" in message
    assert message.endswith("or lower SOLVER.BASE_LR or set SOLVER.AMP.ENABLED False.")


def test_a_loss_that_is_not_finite_is_an_error_all_the_same(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    class Diverging(Trainer):
        def run_step(self) -> None:
            torch.nn.init.constant_(self.model.sem_seg_head.bias, math.nan)
            super().run_step()

    with pytest.raises(NonFiniteLoss, match=r"iteration 0: loss_ce = nan, loss_noise = nan on .*/train/images/"):
        train(amp16(tiny_cfg), tmp_path, kind=Diverging)
