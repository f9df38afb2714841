import numpy as np
import torch

from clouds.evaluation.display import LONGEST, Display
from clouds.evaluation.sem_seg import SemSegEvaluator


def test_copies_are_small_and_of_one_size() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 19, (700, 1100), dtype=np.uint8))
    image = torch.full((3, 350, 550), 90, dtype=torch.uint8)
    shown = Display.of(image, labels, labels + 1)
    assert shown.prediction.shape == shown.image.shape[1:] == (234, 367)
    assert torch.equal(shown.prediction, labels[::3, ::3]) and torch.equal(shown.truth, labels[::3, ::3] + 1)
    assert shown.image.dtype == torch.uint8 and (shown.image == 90).all()
    assert shown.prediction.untyped_storage().nbytes() == shown.prediction.numel() <= LONGEST**2
    assert Display.of(image, labels[:512, :512], None).prediction.shape == (512, 512)
    assert Display.of(image, labels, None).to_host().truth is None


def test_an_evaluator_keeps_the_images_that_are_shown(streets: str) -> None:
    evaluator = SemSegEvaluator(streets, shown=("c", "a"))
    for number, name in enumerate("abc"):
        labels = torch.full((4, 6), number, dtype=torch.uint8)
        sample = {"image": torch.zeros(3, 4, 6, dtype=torch.uint8), "sem_seg": labels, "image_id": name}
        evaluator.process([sample | {"file_name": f"{name}.png"}], [{"label_map": labels}])
    evaluator.evaluate()
    assert list(evaluator.displayed) == ["c", "a"]
    assert (evaluator.displayed["c"].prediction == 2).all()
    evaluator.reset()
    assert not evaluator.displayed
