"""Folders of an adapter alone: peft reads them, we read those of peft, and others are refused."""

from pathlib import Path

import peft
import pytest
import timm
import torch

from clouds.errors import UserError
from clouds.modeling.backbone.adapters.interchange import write_adapter
from tests.modeling.adapted_towers import ANY_SIZE, adapted, change, largest_difference, maps, options
from tests.modeling.timm_folders import config


@pytest.mark.parametrize("adapter", ["LoRA", "SoMA"])
@pytest.mark.parametrize(("kind", "sizes"), [("convnext", {}), ("dinov2", ANY_SIZE), ("dinov3", ANY_SIZE)])
def test_peft_reads_what_we_write(
    folders: dict[str, Path], tmp_path: Path, kind: str, sizes: dict[str, bool], adapter: str
) -> None:
    own = ("MODEL.ADAPTER.ALPHA", 6.0, "MODEL.ADAPTER.SKIP_BLOCKS", 1, "MODEL.BACKBONE.TIMM.PATCH_SIZE", 0)
    opts = options(adapter, *own)
    backbone = adapted(config(folders[kind], *opts))
    change(backbone)
    write_adapter(backbone, tmp_path / "adapter")
    model = timm.create_model(f"local-dir:{folders[kind]}", pretrained=True, **sizes)
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):  # otherwise timm reads the weights without calling the layer
            module.qkv_bias_separate = True
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        ours = backbone.tower.forward_intermediates(images, intermediates_only=True)[-1]
        other = theirs.base_model.model.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(other, ours, rtol=1e-5, atol=1e-5)

    # And back, into an adapter that started elsewhere.
    again = adapted(config(folders[kind], *opts, "MODEL.ADAPTER.WEIGHTS", str(tmp_path / "adapter")))
    assert largest_difference(maps(again, (112, 112)), maps(backbone, (112, 112))) < 1e-6


def test_we_read_what_peft_writes(folders: dict[str, Path], tmp_path: Path) -> None:
    model = timm.create_model(f"local-dir:{folders['dinov2']}", pretrained=True, **ANY_SIZE)
    layers = r"blocks\..*\.(qkv|proj|fc1|fc2)"
    settings = peft.LoraConfig(r=4, lora_alpha=7, target_modules=layers, use_rslora=True)
    theirs = peft.get_peft_model(model, settings, adapter_name="default").eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    opts = options("LoRA", "MODEL.ADAPTER.WEIGHTS", str(tmp_path), "MODEL.BACKBONE.TIMM.PATCH_SIZE", 0)
    backbone = adapted(config(folders["dinov2"], *opts))
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        ours = backbone.tower.forward_intermediates(images, intermediates_only=True)[-1]
        other = theirs.base_model.model.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


def test_rein_has_a_file_of_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = adapted(config(folders["eva02"], *options("Rein")))
    change(backbone)
    write_adapter(backbone, tmp_path)
    again = adapted(config(folders["eva02"], *options("Rein", "MODEL.ADAPTER.WEIGHTS", str(tmp_path))))
    assert largest_difference(maps(again), maps(backbone)) == 0
    assert torch.equal(again.queries, backbone.queries)


@pytest.mark.parametrize(
    ("written", "opts", "message"),
    [
        ("convnext", options("LoRA", rank=3), r"which does not fit: its rank is 4, and 3 here"),
        ("convnext", options("SoMA"), r"its rank is 4, and 8 here"),
        ("convnext", options("LoRA", "MODEL.ADAPTER.SKIP_BLOCKS", 2), r"it has base_model.model.stages.0.blocks.0.mlp"),
        ("convnext", options("LoRA", "MODEL.BACKBONE.TIMM.WEIGHTS", ""), r"trained on other weights of the tower"),
        ("dinov2", options("LoRA"), r"trained on other weights of the tower"),
        (
            "nothing",
            options("LoRA"),
            r"adapter_config.json cannot be read .*: give a folder that clouds adapter or peft",
        ),
    ],
)
def test_an_adapter_of_another_tower_or_rank_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    written: str,
    opts: tuple[object, ...],
    message: str,
) -> None:
    if written in folders:
        write_adapter(adapted(config(folders[written], *options("LoRA"))), tmp_path)
    with pytest.raises(UserError, match=message) as error:
        adapted(config(folders["convnext"], *opts, "MODEL.ADAPTER.WEIGHTS", str(tmp_path)))
    assert written == "nothing" or str(error.value).startswith(f"MODEL.ADAPTER.WEIGHTS is {tmp_path}, ")
