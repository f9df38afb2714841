"""Tensors on their way to a device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.utils.transfer import snapshot, stack_views, upload


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), count=st.integers(1, 4))
def test_neighbors_in_one_storage_are_stacked_without_a_copy(sizes: list[int], count: int) -> None:
    whole = torch.arange(count * torch.Size(sizes).numel()).view(count, *sizes)
    stacked = stack_views(list(whole.unbind()))
    assert torch.equal(stacked, whole) and stacked.data_ptr() == whole.data_ptr()
    assert stacked.stride() == whole.stride()


def test_part_of_a_storage_is_stacked_without_a_copy() -> None:
    whole = torch.arange(40).view(5, 2, 4)
    stacked = stack_views([whole[2], whole[3]])
    assert torch.equal(stacked, whole[2:4]) and stacked.data_ptr() == whole[2].data_ptr()


WHOLE = torch.arange(48).view(6, 2, 4)


@pytest.mark.parametrize(
    "tensors",
    [
        [WHOLE[1], WHOLE[0]],
        [WHOLE[0], WHOLE[2]],
        [WHOLE[0], WHOLE[0]],
        [WHOLE[0], WHOLE[1].clone()],
        [WHOLE[0].T, WHOLE[1].T],
        [WHOLE[0], WHOLE[1].flip(0)],
        [torch.zeros(2, 4), torch.ones(2, 4)],
    ],
    ids=["order", "gap", "twice", "another storage", "transposed", "flipped", "separate"],
)
def test_other_tensors_are_stacked_by_a_copy(tensors: list[torch.Tensor]) -> None:
    stacked = stack_views(tensors)
    assert torch.equal(stacked, torch.stack(tensors))
    assert stacked.untyped_storage().data_ptr() != tensors[0].untyped_storage().data_ptr()


def test_tensors_of_two_sizes_cannot_be_stacked() -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        stack_views([torch.zeros(2, 4), torch.zeros(2, 3)])


def test_upload_to_where_a_tensor_is_copies_nothing() -> None:
    tensor = torch.arange(3)
    assert upload(tensor, torch.device("cpu")).data_ptr() == tensor.data_ptr()
    assert upload(tensor, torch.device("meta")).is_meta


def test_a_snapshot_does_not_change() -> None:
    values = torch.arange(6.0).view(2, 3).T.contiguous().T
    parameter = torch.nn.Parameter(torch.ones(2))
    state = {"a": values, "b": [values, {"c": (parameter, 3)}], "d": torch.tensor(7), "e": values[:1]}
    copied = snapshot(state)
    values.zero_()
    parameter.data.zero_()
    state["b"].append("more")
    state["d"] += 1
    expected = torch.arange(6.0).view(2, 3)
    assert torch.equal(copied["a"], expected) and torch.equal(copied["e"], expected[:1])
    assert copied["a"].stride() == values.stride(), "the layout of the memory"
    assert copied["b"][0] is copied["a"], "one copy"
    assert len(copied["b"]) == 2 and copied["d"] == 7
    assert copied["b"][1]["c"][0].tolist() == [1, 1] and not copied["b"][1]["c"][0].requires_grad
