"""Settings of the text-to-image model, its execution, the quality gate and the chat model. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaintingSettings:
    """Everything that determines an image except its prompt and its seed.

    Attributes:
        model: text-to-image pipeline, by its name on the hub or its local folder.
        revision: branch, tag or commit on the hub; None for the newest.
        scheduler: name in `clouds.generation.painter.SCHEDULERS`, or `default` for the model's own scheduler.
        steps: number of denoising steps, at least 1.
        guidance: weight of classifier-free guidance, at least 0.
        height: image height in pixels; None for the model's own.
        width: image width in pixels; None for the model's own.
        negative_prompt: text that the image should not match; empty for none.
        dtype: name in `clouds.generation.device.DTYPES`; `resolve_dtype` there turns `auto` into one.
    """

    model: str
    revision: str | None = None
    scheduler: str = "euler"
    steps: int = 50
    guidance: float = 7.5
    height: int | None = None
    width: int | None = None
    negative_prompt: str = ""
    dtype: str = "fp32"


@dataclass(frozen=True)
class GateSettings:
    """Thresholds of the gate.

    Attributes:
        contrast: lowest accepted standard deviation of an image's luminance, in grey levels of 0..255.
        similarity: lowest accepted similarity between an image and its prompt, -1..1; None to skip this test. Typical
            values depend on the CLIP: the quantiles that `--stats` prints help to choose one.
        clip: CLIP that computes the similarity: name of an open_clip model, a `.json` config, or a folder with
            `open_clip_config.json`.
        clip_weights: open_clip tag or file of the CLIP's weights; empty for a folder.
        duplicate_distance: largest number of differing bits, of 64, at which two hashes count as near-duplicates; None
            to skip this test.
        attempts: number of times that an image is generated before it is left out, at least 1.
    """

    contrast: float = 6.0
    similarity: float | None = None
    clip: str = "ViT-B-32"
    clip_weights: str = "laion2b_s34b_b79k"
    duplicate_distance: int | None = 4
    attempts: int = 5


@dataclass(frozen=True)
class Execution:
    """Device and batches of a pipeline. They change the images by rounding at most.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:<index>", see `clouds.generation.device.resolve_device`.
        batch_size: number of images that are denoised at once, at least 1.
        compile: whether the denoiser is compiled with `torch.compile`.
    """

    device: str = "auto"
    batch_size: int = 4
    compile: bool = False


@dataclass(frozen=True)
class ChatSettings:
    """Chat model and the sampling of its replies.

    Attributes:
        model: hub name or local folder of a text model of transformers.
        revision: branch, tag or commit on the hub; None for the newest.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: name of a torch dtype, or "auto" for that of the stored weights.
        temperature: sampling temperature, above 0.
        top_p: probability mass of the tokens to sample from, above 0 and at most 1.
        max_new_tokens: maximum number of tokens of a reply.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int = 400
