"""Linear layers that compute with oneDNN are torch's own up to rounding, gradients included."""

import copy
import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clouds.modeling import linear
from clouds.modeling.linear import OneDNNLinear, onednn_is_faster, use_onednn
from tests.parity import golden

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


def pair(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    plain = nn.Linear(16, 24, bias=bias)
    ours = copy.deepcopy(plain)
    use_onednn(ours)
    assert type(ours) is OneDNNLinear
    assert isinstance(ours, nn.Linear)
    return plain, ours


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 7), (2, 3, 4), (1, 1, 1, 1), (0,)])
def test_values_and_gradients(shape: tuple[int, ...], bias: bool) -> None:
    plain, ours = pair(bias)
    x = torch.randn(*shape, 16)
    results = []
    for layer in (plain, ours):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.square().sum().backward()
        results.append([y.detach(), leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(results[1], results[0])


def test_strided_inputs_and_no_gradient() -> None:
    plain, ours = pair()
    x = torch.randn(16, 5, 3).permute(2, 1, 0)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x[:, ::2]), plain(x[:, ::2]))


def test_only_input_and_weight_are_saved() -> None:
    _, ours = pair()
    x, saved = torch.randn(3, 16), list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        ours(x)
    assert [each.data_ptr() for each in saved] == [x.data_ptr(), ours.weight.data_ptr()]


def test_float32_outside_autocast_goes_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair()
    asked: list[torch.dtype] = []
    product = linear.product
    monkeypatch.setattr(linear, "product", lambda x, *rest: asked.append(x.dtype) or product(x, *rest))
    ours(torch.randn(2, 16))
    assert asked == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(2, 16)).dtype == torch.bfloat16
    assert copy.deepcopy(ours).double()(torch.randn(2, 16).double()).dtype == torch.float64
    assert ours.to("meta")(torch.randn(2, 16, device="meta")).shape == (2, 24)
    assert len(asked) == 1


def test_a_compiled_layer_is_one_graph() -> None:
    plain, ours = pair()
    x = torch.randn(3, 16)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plain(x))


def test_only_linear_layers_change() -> None:
    attention = nn.MultiheadAttention(8, 2)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(8, 8)), attention)
    names = [name for name, _ in model.named_parameters()]
    use_onednn(model)
    assert [type(model[0]), type(model[1][1])] == [OneDNNLinear] * 2
    assert type(attention.out_proj) is nn.modules.linear.NonDynamicallyQuantizableLinear
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(("vendor", "faster"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_processor_decides(vendor: str, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\n")
    for file in ("cpuinfo", "missing"):
        monkeypatch.setattr(linear, "Path", lambda _, file=file: tmp_path / file)
        monkeypatch.setattr(platform, "processor", lambda: f"AMD64 Family 25 Model 1 Stepping 1, {vendor}")
        assert onednn_is_faster() is faster


@pytest.mark.parametrize("case", ["convnext_text", "rn_closed"])
def test_losses_and_gradients_of_a_network(case: str) -> None:
    model = golden.build(case).train()

    def run() -> tuple[dict[str, float], dict[str, Tensor]]:
        torch.manual_seed(0)
        model.zero_grad()
        losses = model(golden.batch())
        sum(losses.values()).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {name: loss.item() for name, loss in losses.items()}, gradients

    # At the start, points lie on pixel centres, where rounding decides on a side and the gradient jumps.
    for name, parameter in model.named_parameters():
        if "sampling_offsets" in name:
            nn.init.normal_(parameter.data, std=0.01)
    plain, plain_gradients = run()
    use_onednn(model)
    ours, gradients = run()
    assert ours == pytest.approx(plain, rel=1e-4)
    assert gradients.keys() == plain_gradients.keys()
    whole = torch.nn.utils.get_total_norm(plain_gradients.values())
    difference = torch.nn.utils.get_total_norm([gradients[name] - plain_gradients[name] for name in gradients])
    assert difference < 1e-3 * whole
