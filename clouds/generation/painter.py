"""Image generation with any text-to-image pipeline of diffusers: prompts and seeds in, images out."""

import importlib.metadata
import inspect
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

from clouds.errors import UserError, check_name, is_out_of_memory
from clouds.generation.device import DTYPES
from clouds.generation.prompts import truncated_text
from clouds.generation.settings import PaintingSettings
from clouds.utils.hashing import model_digest
from clouds.utils.hub import advice
from clouds.utils.json_files import read_json
from clouds.utils.memory import resident_size
from clouds.utils.paths import user_path
from clouds.utils.torch_files import verify_model
from clouds.utils.yaml_files import parse_yaml

logger = logging.getLogger(__name__)

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    # For models distilled to a few steps: these start at the last time step, whatever the number of steps.
    "trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "turbo": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "lcm": ("LCMScheduler", {}),
}
"""Name on the command line -> class in diffusers, and settings that replace the model's own."""
MAX_SIDE = 16384
"""Largest height and width of an image, in pixels."""


@dataclass(frozen=True)
class Painted:
    """Image with the verdict of the model's own safety checker.

    Attributes:
        pixels: (H, W, 3) uint8 RGB; black if `flagged`.
        flagged: whether the safety checker rejected the image.
    """

    pixels: npt.NDArray[np.uint8]
    flagged: bool


class Painter:
    """Text-to-image pipeline on its device.

    Every image has its own random generator on the CPU, seeded with the seed of the image. The batch and the device
    therefore only change rounding: by at most one grey level in fp32.
    """

    def __init__(self, settings: PaintingSettings, *, device: str, batch_size: int, compile: bool = False) -> None:
        """Load the pipeline.

        Args:
            settings: the model and how to run it.
            device: torch device, as returned by `resolve_device`.
            batch_size: largest number of images in one call.
            compile: run `torch.compile` on the denoiser. Smaller batches are then padded to `batch_size`, so that it is
                compiled once.

        Raises:
            UserError: the model, revision or scheduler does not exist, the folder holds something else, or the pipeline
                does not support the image size or a negative prompt.
        """
        self.settings = settings
        self.device = device
        self.batch_size = batch_size
        self.compile = compile
        self.pipeline = _load(settings)
        self.pipeline.set_progress_bar_config(disable=True)
        try:
            self.pipeline.to(device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{device} has not enough memory for {settings.model}; use another --device, a smaller --dtype, or a "
                "smaller model."
            ) from error
        self._arguments = self._call_arguments()
        # Decodes one image after the other: as fast, and the peak memory of a batch is then that of its denoising.
        if hasattr(getattr(self.pipeline, "vae", None), "enable_slicing"):
            self.pipeline.vae.enable_slicing()
        denoiser = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        if denoiser is not None and device.startswith("cuda"):
            denoiser.to(memory_format=torch.channels_last)
        if compile and denoiser is not None:
            denoiser.compile()

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        """Generate one image for each prompt.

        Args:
            prompts: at most `batch_size` texts.
            seeds: seed of each image, 0..2^63-1.

        Raises:
            UserError: the device runs out of memory, or an image has values that are not finite.
        """
        wanted = len(prompts)
        padding = self.batch_size - wanted if self.compile else 0
        prompts = [*prompts, *[prompts[-1]] * padding]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * padding]]
        arguments = dict(self._arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [self.settings.negative_prompt] * len(prompts)
        try:
            output = self.pipeline(prompt=prompts, generator=generators, output_type="np", **arguments)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{self.device} has not enough memory for {len(prompts)} images at once; lower --batch-size"
                + ("." if len(prompts) > 1 else ", --height and --width, or use another --dtype.")
            ) from error
        images = np.asarray(output.images, dtype=np.float32)[:wanted]
        if not np.isfinite(images).all():
            raise UserError(
                f"{self.settings.model} computes values that are not finite in {self.settings.dtype}; use --dtype bf16 "
                "or fp32."
            )
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        pixels = (images * 255).round().clip(0, 255).astype(np.uint8)
        return [Painted(image, bool(flag)) for image, flag in zip(pixels, flags[:wanted], strict=True)]

    def truncated_prompts(self, prompts: Sequence[str]) -> dict[int, str]:
        """Return the prompts that are too long for the model: index of the prompt -> end that no text encoder reads."""
        tokenizers = [part for name, part in self.pipeline.components.items() if name.startswith("tokenizer") and part]
        truncated: dict[int, str] = {}
        for index, prompt in enumerate(prompts):
            # A pipeline with several encoders reads as far as the longest of them.
            unread = min((truncated_text(tokenizer, prompt) for tokenizer in tokenizers), key=len, default="")
            if unread:
                truncated[index] = unread
        return truncated

    def model_id(self) -> str:
        """Return the identity of the model: its commit on the hub, or the sha256 of the files of a local folder."""
        folder = self._folder()
        if folder.parent.name == "snapshots":
            return folder.name
        return model_digest(folder)

    def licence(self) -> str:
        """Return the licence in the front matter of the model's card; `unknown` if it names none."""
        card = self._card()
        text = card.read_text(encoding="utf-8", errors="replace") if card is not None else ""
        parts = text.split("---\n")
        try:
            front = parse_yaml(parts[1], f"Card {card}") if text.startswith("---\n") and len(parts) > 2 else None
        except UserError:
            front = None
        licence = front.get("license_name") or front.get("license") if isinstance(front, dict) else None
        return str(licence or "unknown")

    def versions(self) -> dict[str, str]:
        """Return the versions of Python and of the packages that determine an image."""
        names = ("torch", "diffusers", "transformers", "numpy", "pillow")
        return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}}

    def device_name(self) -> str:
        """Return the name of the GPU, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else self.device

    def peak_memory(self) -> int | None:
        """Return the peak memory in bytes, of torch on a GPU, else of this process; None if unknown."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device)
        return resident_size(peak=True)

    def _folder(self) -> Path:
        """Return the folder with the model's files."""
        local = Path(self.settings.model)
        if local.is_dir():
            return local
        index = try_to_load_from_cache(self.settings.model, "model_index.json", revision=self.settings.revision)
        if not isinstance(index, str):
            raise RuntimeError(f"{self.settings.model} was loaded, but its model_index.json is not in the cache")
        return Path(index).parent

    def _card(self) -> Path | None:
        card = self._folder() / "README.md"
        if card.is_file() or Path(self.settings.model).is_dir():
            return card if card.is_file() else None
        try:
            return Path(hf_hub_download(self.settings.model, "README.md", revision=self.settings.revision))
        # Without a network the licence is unknown, and the images can still be generated.
        except (HfHubHTTPError, OSError, ValueError):
            return None

    def _call_arguments(self) -> dict[str, Any]:
        """Return the arguments of every call that this pipeline supports."""
        settings, name = self.settings, type(self.pipeline).__name__
        supported = set(inspect.signature(self.pipeline.__call__).parameters)
        if settings.negative_prompt and "negative_prompt" not in supported:
            raise UserError(f"{name} ({settings.model}) does not support --negative-prompt; leave it out.")
        factor = getattr(self.pipeline, "vae_scale_factor", 8)
        for flag, value in (("--height", settings.height), ("--width", settings.width)):
            if value is not None and (not 0 < value <= MAX_SIDE or value % factor):
                raise UserError(
                    f"{flag} is {value}; for {name} it must be a multiple of {factor} pixels, at most {MAX_SIDE}."
                )
        arguments = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "height": settings.height,
            "width": settings.width,
            "negative_prompt": settings.negative_prompt or None,
        }
        return {key: value for key, value in arguments.items() if value is not None and key in supported}


def _load(settings: PaintingSettings) -> Any:
    diffusers.utils.logging.disable_progress_bar()
    # Safety checkers print a line for each black image; here these images are counted and generated again.
    diffusers.utils.logging.set_verbosity_error()
    local = user_path(settings.model)
    if local.is_dir() and not (local / "model_index.json").is_file():
        raise UserError(
            f"--model {settings.model} is a folder without model_index.json; name the folder of a diffusers pipeline."
        )
    if local.is_dir():
        read_json(local / "model_index.json", dict, "copy or download the folder again")
    try:
        verify_model(settings.model)
        pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
            str(local) if local.is_dir() else settings.model, revision=settings.revision, dtype=DTYPES[settings.dtype]
        )
    # Raised by the hub's client, diffusers and safetensors for a model that does not exist or cannot be read.
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, MemoryError) as error:
        where = f" at revision {settings.revision}" if settings.revision and not local.is_dir() else ""
        raise UserError(
            f"The text-to-image model {settings.model!r}{where} cannot be loaded: "
            f"{advice(error, settings.model, settings.revision)}."
        ) from error
    if settings.scheduler != "default":
        _set_scheduler(pipeline, settings)
    return pipeline


def _set_scheduler(pipeline: Any, settings: PaintingSettings) -> None:
    check_name("--scheduler", settings.scheduler, [*SCHEDULERS, "default"])
    name, options = SCHEDULERS[settings.scheduler]
    own = type(pipeline.scheduler).__name__
    # Flow matching defines the noise level differently from the schedulers of the table.
    if "Flow" in own:
        raise UserError(
            f"{settings.model} comes with {own}, which --scheduler {settings.scheduler} cannot replace; use default."
        )
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **options)
    try:
        pipeline.scheduler.set_timesteps(settings.steps)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # more or fewer steps than the scheduler can make
        raise UserError(
            f"--steps {settings.steps} does not fit --scheduler {settings.scheduler} of {settings.model}: use another "
            "number of steps, 50 or fewer for lcm."
        ) from error
