"""Switches of torch's libraries."""

import pytest
import torch

from clouds.utils.devices import cudnn_benchmark, float32_precision, set_float32_precision


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("", "cpu", "highest"),
        ("", "cuda:1", "high"),
        ("highest", "cuda", "highest"),
        ("medium", "cuda", "medium"),
        ("high", "cpu", "high"),
    ],
)
def test_the_precision_of_products_and_convolutions(precision: str, device: str, expected: str) -> None:
    assert set_float32_precision(precision, torch.device(device)) == expected
    assert torch.get_float32_matmul_precision() == expected
    assert torch.backends.cudnn.allow_tf32 is (expected != "highest"), "both in TF32, or none"
    assert torch.backends.cuda.matmul.allow_tf32 is (expected != "highest")


def test_the_choice_of_algorithms_ends_with_its_context() -> None:
    assert torch.backends.cudnn.benchmark is False
    with cudnn_benchmark(True):
        with cudnn_benchmark(False):
            assert torch.backends.cudnn.benchmark is False
        assert torch.backends.cudnn.benchmark is True
        with pytest.raises(KeyError), cudnn_benchmark(False):
            raise KeyError
        assert torch.backends.cudnn.benchmark is True
    assert torch.backends.cudnn.benchmark is False


def test_the_precision_is_restored() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyError), float32_precision("medium", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyError
    with float32_precision("", torch.device("cpu")):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
