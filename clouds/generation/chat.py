"""Chat model of transformers that writes prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from clouds.errors import UserError
from clouds.generation.device import resolve_device
from clouds.generation.settings import ChatSettings
from clouds.utils.hub import advice
from clouds.utils.torch_files import verify_model


class ChatModel:
    """Chat model on its device; a `clouds.generation.writing.Writer`.

    Args:
        settings: the model and its sampling.

    Raises:
        UserError: the model cannot be loaded, or the device does not exist.
    """

    def __init__(self, settings: ChatSettings) -> None:
        device = resolve_device(settings.device)
        name, revision = settings.model, settings.revision
        try:
            verify_model(name)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=settings.dtype)
        # Raised by transformers and the hub's client for a model that does not exist, is damaged or is no text model.
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError) as error:
            raise UserError(f"The chat model {name!r} cannot be loaded: {advice(error, name, revision)}.") from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = loaded.to(device).eval()
        self._sampling = {
            "do_sample": True,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_new_tokens": settings.max_new_tokens,
            "pad_token_id": self._tokenizer.pad_token_id,
        }

    def __call__(self, requests: Sequence[str], seed: int) -> list[str]:
        """Sample a reply to each request. The replies depend on the requests and the seed alone."""
        texts = [self._as_chat(request) for request in requests]
        # A chat template writes the special tokens at the beginning itself.
        has_template = self._tokenizer.chat_template is not None
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not has_template)
        batch = {name: batch[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            tokens = self._model.generate(**batch, **self._sampling)
        new = tokens[:, batch["input_ids"].shape[1] :]
        replies: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return replies

    def _as_chat(self, request: str) -> str:
        if self._tokenizer.chat_template is None:
            return request
        chat = [{"role": "user", "content": request}]
        text: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return text
