"""The miniature segmenter: a trained network of the experiment, and scenes of unseen domains to try it on."""

from pathlib import Path

from PIL import Image

import clouds
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded
from minicity.world.records import Rendered
from minicity.world.render import render_scene

EXAMPLES = {"city": 1, "night": 3, "rain": 4}
"""Domain -> index of the scene that is drawn."""

_SEED = 90  # not that of a data set
_SIZE = (384, 768)


def example(domain: str) -> Rendered:
    """Draw the example of a domain, with its label map."""
    return render_scene(f"minicity_{domain}", _SEED, EXAMPLES[domain], _SIZE)


def save_segmenter(run: Path, folder: Path, examples: Path) -> None:
    """Save a network without its CLIP, which stays where it is, and draw the examples.

    Args:
        run: output folder of its training.
        folder: folder to write, see `clouds.Segmenter.save_pretrained`.
        examples: folder of the drawn scenes, ``<domain>.jpg``.

    Raises:
        UserError: `run` holds no network, or `folder` holds other files.
        WriteError: a folder cannot be written.
    """
    model = clouds.load(run, device="cpu")
    model.save_pretrained(folder, link_backbone=True, license="apache-2.0")
    make_folder(examples)
    for domain in EXAMPLES:
        image = Image.fromarray(example(domain).image)
        write_atomically(examples / f"{domain}.jpg", encoded(image, "JPEG", quality=85))
