"""Painting: prompts and seeds in, images out, by any text-to-image pipeline of diffusers."""

import importlib.metadata
import inspect
import logging
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.errors import UserError, check_name
from clouds.generation.prompts import cut_text
from clouds.utils.hashing import model_digest

logger = logging.getLogger(__name__)

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# Name on the command line: class in diffusers, and what it is given besides the model's own scheduler settings.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    # For models distilled to a few steps: these begin at the last time step, whatever their number.
    "trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "turbo": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "lcm": ("LCMScheduler", {}),
}


@dataclass(frozen=True)
class Recipe:
    """What decides an image, besides its prompt and its seed.

    Attributes:
        model: name on the hub, or a local folder, of a text-to-image pipeline.
        revision: branch, tag or commit on the hub; None is the newest.
        scheduler: a name in `SCHEDULERS`, or `default`: the model's own.
        steps: of denoising, at least 1.
        guidance: weight of classifier-free guidance, at least 0.
        height: of an image in pixels; None is the model's own.
        width: of an image in pixels; None is the model's own.
        negative_prompt: what the image should not show; empty for nothing.
        dtype: a name in `DTYPES`.
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
class Painted:
    """An image, (H, W, 3) uint8 RGB, and whether the model's own safety checker took offence (it is black then)."""

    pixels: npt.NDArray[np.uint8]
    flagged: bool


def resolve_device(name: str, local_rank: int = 0) -> str:
    """`auto` is a GPU where there is one; `cuda` is that of this process among those of the machine.

    Raises:
        UserError: a GPU is asked for that is not there, or a device that torch does not know.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device of torch; try auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda":
        index = local_rank if device.index is None else device.index
        if index >= count:
            found = f"finds {count} GPU(s)" if count else "finds no GPU"
            raise UserError(
                f"--device {name} asks for GPU {index}, but torch {found}; check the driver, or --device cpu."
            )
        return f"cuda:{index}"
    return str(device)


def resolve_dtype(name: str, device: str) -> str:
    """`auto` is fp16 on a GPU, as published, and fp32 elsewhere.

    Raises:
        UserError: no such name, or fp16 on a CPU, which has no fp16 convolutions worth the name.
    """
    if name == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    check_name("--dtype", name, DTYPES)
    if name == "fp16" and device == "cpu":
        raise UserError("--dtype fp16 needs a GPU; on a CPU take fp32 (auto does) or bf16.")
    return name


class Painter:
    """A loaded pipeline on its device.

    Every image has a random generator of its own, on the CPU, seeded with its seed. So the batch that it is in,
    and the device, change nothing but float rounding: one grey level at most in fp32.
    """

    def __init__(self, recipe: Recipe, *, device: str, batch_size: int, compile: bool = False) -> None:
        """Load the pipeline.

        Args:
            recipe: which model, and how it is asked.
            device: as `resolve_device` returns it.
            batch_size: of the largest call.
            compile: `torch.compile` the denoiser; a smaller call is then filled up, so that it is compiled once.

        Raises:
            UserError: there is no such model, revision or scheduler, the folder holds something else, or the pipeline
                does not take this size or a negative prompt.
        """
        import torch

        self.recipe = recipe
        self.device = device
        self.batch_size = batch_size
        self.compile = compile
        self.pipeline = _load(recipe)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device)
        self._arguments = self._call_arguments()
        # One image after the other: as fast, and the memory of a batch is that of its denoising.
        if hasattr(getattr(self.pipeline, "vae", None), "enable_slicing"):
            self.pipeline.vae.enable_slicing()
        denoiser = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        if denoiser is not None and device.startswith("cuda"):
            denoiser.to(memory_format=torch.channels_last)
        if compile and denoiser is not None:
            denoiser.compile()

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        """Paint one image a prompt.

        Args:
            prompts: at most `batch_size`.
            seeds: one each, 0..2^63-1.

        Raises:
            UserError: the device ran out of memory, or the model computed something that is not a number.
        """
        import torch

        wanted = len(prompts)
        spare = self.batch_size - wanted if self.compile else 0
        prompts = [*prompts, *[prompts[-1]] * spare]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * spare]]
        arguments = dict(self._arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [self.recipe.negative_prompt] * len(prompts)
        try:
            output = self.pipeline(prompt=prompts, generator=generators, output_type="np", **arguments)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device} has not enough memory for {len(prompts)} images at once; lower --batch-size"
                + ("." if len(prompts) > 1 else ", --height and --width, or take another --dtype.")
            ) from error
        images = np.asarray(output.images, dtype=np.float32)[:wanted]
        if not np.isfinite(images).all():
            raise UserError(
                f"{self.recipe.model} computes numbers that are not finite in {self.recipe.dtype}; take --dtype bf16 "
                "or fp32."
            )
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        pixels = (images * 255).round().clip(0, 255).astype(np.uint8)
        return [Painted(image, bool(flag)) for image, flag in zip(pixels, flags[:wanted], strict=True)]

    def cut_prompts(self, prompts: Sequence[str]) -> dict[int, str]:
        """The place of each prompt that every text encoder of the model cuts short: the text that none of them sees."""
        tokenizers = [part for name, part in self.pipeline.components.items() if name.startswith("tokenizer") and part]
        cut: dict[int, str] = {}
        for place, prompt in enumerate(prompts):
            # A pipeline with several encoders reads on with the longest of them.
            unseen = min((cut_text(tokenizer, prompt) for tokenizer in tokenizers), key=len, default="")
            if unseen:
                cut[place] = unseen
        return cut

    def fingerprint(self) -> str:
        """What tells this model from another: its commit on the hub, or the sha256 of all files of its folder."""
        folder = self._folder()
        if folder.parent.name == "snapshots":
            return folder.name
        return model_digest(folder)

    def licence(self) -> str:
        """As the front matter of the model's card says; `unknown` where it does not."""
        import yaml

        card = self._card()
        text = card.read_text(encoding="utf-8", errors="replace") if card is not None else ""
        parts = text.split("---\n")
        try:
            front = yaml.safe_load(parts[1]) if text.startswith("---\n") and len(parts) > 2 else None
        except yaml.YAMLError:
            front = None
        named = front.get("license_name") or front.get("license") if isinstance(front, dict) else None
        return str(named or "unknown")

    def versions(self) -> dict[str, str]:
        """Of what computes an image."""
        names = ("torch", "diffusers", "transformers", "numpy", "pillow")
        return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}}

    def device_name(self) -> str:
        """Of the GPU, or `cpu`."""
        import torch

        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else self.device

    def peak_memory(self) -> int:
        """Bytes: the most that torch has held on the GPU, else the most that this process has held at all."""
        import torch

        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _folder(self) -> Path:
        """Where the model's files lie."""
        local = Path(self.recipe.model)
        if local.is_dir():
            return local
        from huggingface_hub import try_to_load_from_cache

        index = try_to_load_from_cache(self.recipe.model, "model_index.json", revision=self.recipe.revision)
        if not isinstance(index, str):
            raise RuntimeError(f"{self.recipe.model} was loaded, but its model_index.json is not in the cache")
        return Path(index).parent

    def _card(self) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        card = self._folder() / "README.md"
        if card.is_file() or Path(self.recipe.model).is_dir():
            return card if card.is_file() else None
        try:
            return Path(hf_hub_download(self.recipe.model, "README.md", revision=self.recipe.revision))
        # Without a network the licence stays unknown; the images can be painted all the same.
        except (HfHubHTTPError, OSError, ValueError):
            return None

    def _call_arguments(self) -> dict[str, Any]:
        """What each call is given: only arguments that this pipeline has."""
        recipe, name = self.recipe, type(self.pipeline).__name__
        takes = set(inspect.signature(self.pipeline.__call__).parameters)
        if recipe.negative_prompt and "negative_prompt" not in takes:
            raise UserError(f"{name} ({recipe.model}) takes no --negative-prompt; leave it out.")
        factor = getattr(self.pipeline, "vae_scale_factor", 8)
        for flag, value in (("--height", recipe.height), ("--width", recipe.width)):
            if value is not None and (value <= 0 or value % factor):
                raise UserError(f"{flag} is {value}; {name} paints multiples of {factor} pixels.")
        wanted = {
            "num_inference_steps": recipe.steps,
            "guidance_scale": recipe.guidance,
            "height": recipe.height,
            "width": recipe.width,
            "negative_prompt": recipe.negative_prompt or None,
        }
        return {key: value for key, value in wanted.items() if value is not None and key in takes}


def _load(recipe: Recipe) -> Any:
    import torch
    from diffusers import AutoPipelineForText2Image
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError

    diffusers_logging.disable_progress_bar()
    # Safety checkers announce each black image; here they are counted, and painted again.
    diffusers_logging.set_verbosity_error()
    local = Path(recipe.model).expanduser()
    if local.is_dir() and not (local / "model_index.json").is_file():
        raise UserError(
            f"--model {recipe.model} is a folder without model_index.json; name that of a whole diffusers pipeline."
        )
    dtype: torch.dtype = getattr(torch, DTYPES[recipe.dtype])
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            str(local) if local.is_dir() else recipe.model, revision=recipe.revision, dtype=dtype
        )
    # What the hub's client, diffusers and safetensors raise for a model that is not there or is no such model.
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        where = "" if local.is_dir() else f" at revision {recipe.revision}" if recipe.revision else ""
        offline = " (HF_HUB_OFFLINE is set: only what is in the cache can be had)" if _offline() else ""
        hint = "check its files" if local.is_dir() else f"name a local folder or a model of the hub{offline}"
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The text-to-image model {recipe.model!r}{where} cannot be loaded; {hint}. ({reason})"
        ) from error
    if recipe.scheduler != "default":
        _set_scheduler(pipeline, recipe)
    return pipeline


def _set_scheduler(pipeline: Any, recipe: Recipe) -> None:
    import diffusers

    check_name("--scheduler", recipe.scheduler, [*SCHEDULERS, "default"])
    name, settings = SCHEDULERS[recipe.scheduler]
    own = type(pipeline.scheduler).__name__
    # Flow matching has another notion of noise level than the schedulers of the table.
    if "Flow" in own:
        raise UserError(
            f"{recipe.model} comes with {own}, which --scheduler {recipe.scheduler} cannot replace; give default."
        )
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
