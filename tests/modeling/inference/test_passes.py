"""Sliding window and test-time augmentation against plain loops."""

import logging
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.modeling.inference import Passes, averaged_scores, labels_of_scores, passes, window_corners
from clouds.utils.sizes import scaled_size

K = 4
lengths = st.integers(1, 40)


class Convolution(nn.Module):
    """Scores from a convolution, which depend on what is beside a pixel, and on the position in the input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[tuple[int, int]]] = []
        self.layer = nn.Conv2d(3, K, 5, padding=2)

    def forward(self, samples: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.seen.append([tuple(sample["image"].shape[1:]) for sample in samples])
        results = []
        for sample in samples:
            image = sample["image"].float() / 255
            scores = self.layer(image[None]) + torch.linspace(0, 1, image.shape[-1])
            results.append({"sem_seg": F.interpolate(scores, (sample["height"], sample["width"]), mode="bilinear")[0]})
        return results


@pytest.fixture
def model() -> Convolution:
    torch.manual_seed(0)
    return Convolution().eval().requires_grad_(False)


def an_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def single(model: nn.Module, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return the scores of one pass."""
    height, width = size or image.shape[1:]
    [output] = model([{"image": image, "height": height, "width": width}])
    return output["sem_seg"]


@given(size=st.tuples(lengths, lengths), window=st.tuples(lengths, lengths), data=st.data())
def test_windows_cover_an_image(size: tuple[int, int], window: tuple[int, int], data: st.DataObject) -> None:
    stride = tuple(data.draw(st.integers(1, side)) for side in window)
    corners = window_corners(size, window, stride)
    covered = torch.zeros(size, dtype=torch.int64)
    height, width = (min(sides) for sides in zip(window, size, strict=True))
    for top, left in corners:
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
        covered[top : top + height, left : left + width] += 1
    assert covered.min() >= 1
    assert corners[0] == (0, 0)
    assert corners[-1] == (size[0] - height, size[1] - width)
    assert corners == sorted(set(corners))
    for steps, step in zip(zip(*corners, strict=True), stride, strict=True):
        starts = sorted(set(steps))
        assert all(start == step * number for number, start in enumerate(starts[:-1]))


def test_corners_of_rein() -> None:
    """The windows of 1024 x 512 with stride 341, see mmsegmentation's `slide_inference`."""
    assert window_corners((512, 1024), (512, 512), (341, 341)) == [(0, 0), (0, 341), (0, 512)]


@pytest.mark.parametrize(
    ("window", "stride"), [((16, 16), (11, 11)), ((16, 24), None), ((7, 50), (7, 3)), ((60, 9), (1, 9))]
)
@pytest.mark.parametrize("flip", [False, True])
def test_sliding_window_is_a_loop_over_windows(
    model: Convolution, window: tuple[int, int], stride: tuple[int, int] | None, flip: bool
) -> None:
    image = an_image(33, 45)
    total, count = torch.zeros(K, 33, 45), torch.zeros(33, 45)
    down, right = stride or window
    for start_y in range(0, 45, down):
        for start_x in range(0, 60, right):
            bottom, right_end = min(start_y + window[0], 33), min(start_x + window[1], 45)
            top, left = max(bottom - window[0], 0), max(right_end - window[1], 0)
            if (start_y and start_y - down + window[0] >= 33) or (start_x and start_x - right + window[1] >= 45):
                continue  # the window before it has reached the border
            crop = image[:, top:bottom, left:right_end]
            for mirrored in (False, True) if flip else (False,):
                scores = single(model, crop.flip(-1)).flip(-1) if mirrored else single(model, crop)
                total[:, top:bottom, left:right_end] += scores
                count[top:bottom, left:right_end] += 1
    found = averaged_scores(model, {"image": image}, Passes(window, stride, flip=flip))
    assert torch.equal(found, total / count)


@pytest.mark.parametrize("window", [None, (33, 45), (100, 45), (512, 512)])
def test_a_window_as_large_as_the_image_is_a_single_pass(model: Convolution, window: tuple[int, int] | None) -> None:
    image = an_image(33, 45)
    assert torch.equal(averaged_scores(model, {"image": image}, Passes(window)), single(model, image))
    assert model.seen[0] == [(33, 45)]


@pytest.mark.parametrize("window", [None, (20, 20)])
def test_views_and_their_mirror_images_are_averaged(model: Convolution, window: tuple[int, int] | None) -> None:
    several = Passes(window, scales=(0.75, 1.0, 1.25), flip=True)
    sizes = [scaled_size((32, 44), scale) for scale in several.scales]
    assert sizes == [(24, 33), (32, 44), (40, 55)]
    # Halves are rounded up.
    assert [scaled_size((30, 34), scale) for scale in several.scales] == [(23, 26), (30, 34), (38, 43)]
    views = [an_image(*size) for size in sizes]
    expected = torch.zeros(K, 32, 44)
    for view in views:
        both = averaged_scores(model, {"image": view}, Passes(window, flip=True))
        expected += F.interpolate(both[None], (32, 44), mode="bilinear")[0] / 3
    found = averaged_scores(model, {"image": views[1], "views": views}, several)
    torch.testing.assert_close(found, expected)


def test_other_entries_reach_the_model(model: Convolution) -> None:
    class Named(nn.Module):
        def forward(self, samples: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            return [{"sem_seg": torch.full((1, 8, 8), float(len(sample["classes"])))} for sample in samples]

    found = averaged_scores(Named(), {"image": an_image(8, 16), "classes": ["road", "sky"]}, Passes((8, 8)))
    assert torch.equal(found, torch.full((1, 8, 16), 2.0))


def test_windows_share_a_pass_where_memory_allows_it(
    model: Convolution, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image, several = an_image(32, 32), Passes((16, 16), (8, 8), flip=True)
    expected = averaged_scores(model, {"image": image}, several)
    assert set(map(len, model.seen)) == {1}, "on a CPU each window is predicted alone"

    class Accelerated(nn.Module):
        """A model on a device, on which two windows at once exceed the memory."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, device="meta"))
            self.seen: list[int] = []

        def forward(self, samples: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            self.seen.append(len(samples))
            if len(samples) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            return model(samples)

    monkeypatch.setattr(passes, "_in_groups", passes.Halved(8, "groups of {} windows"))
    accelerated = Accelerated()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(averaged_scores(accelerated, {"image": image}, several), expected)
    assert accelerated.seen == [8, 4] + 18 * [2]
    assert caplog.messages[-1] == "meta is out of memory: images are evaluated in groups of 2 windows from here on"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": (0, 8)}, "window is"),
        ({"window": (8, 8), "stride": (0, 8)}, "stride is"),
        ({"window": (8, 8), "stride": (8, 9)}, "stride is"),
        ({"stride": (8, 8)}, "no window"),
        ({"scales": ()}, "scales is"),
        ({"scales": (1.0, 0.0)}, "scales is"),
    ],
)
def test_passes_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Passes(**wrong)


def test_views_that_are_missing(model: Convolution) -> None:
    with pytest.raises(ValueError, match="sample has 1 views"):
        averaged_scores(model, {"image": an_image(8, 8)}, Passes(scales=(0.5, 1.0)))


@given(size=st.tuples(lengths, lengths), output=st.tuples(lengths, lengths), threshold=st.sampled_from([0.0, 0.3, 1.0]))
def test_labels_of_scores(size: tuple[int, int], output: tuple[int, int], threshold: float) -> None:
    scores = torch.rand(K, *size, generator=torch.Generator().manual_seed(size[0]))
    resized = scores
    if size != output:
        resized = F.interpolate(scores[None], output, mode="bilinear", align_corners=False)[0]
    best, classes = resized.max(dim=0)
    labels = labels_of_scores(scores, output, threshold)
    assert labels.dtype == torch.uint8
    assert labels.shape == output
    second = resized.topk(2, dim=0).values[1]
    share = best / resized.sum(dim=0)
    clear = (best - second > 1e-5) & ((share - threshold).abs() > 1e-5)
    expected = torch.where((share < threshold) & (threshold > 0), 255, classes)
    assert torch.equal(labels[clear].long(), expected[clear])
