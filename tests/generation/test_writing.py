"""Prompts by a chat model: requests, accepted prompts, and a tiny model of transformers."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from clouds.commands import generate_prompts as command
from clouds.errors import UserError
from clouds.generation.chat import ChatModel
from clouds.generation.prompts import read_prompts
from clouds.generation.settings import ChatSettings
from clouds.generation.writing import INSTRUCTION, parse_reply, refusal, request, write_prompts
from clouds.utils.hashing import write_sha256
from clouds.utils.signals import stop_requested
from tests.generation.pipelines import tokenizer

TOKENS = open_clip.SimpleTokenizer().encode


def count(text: str) -> int:
    return len(TOKENS(text))


def test_requests_differ_and_repeat() -> None:
    asked = {request(INSTRUCTION, 5, 0, turn, place) for turn in range(5) for place in range(4)}
    assert len(asked) == 20
    assert request(INSTRUCTION, 5, 0, 3, 1) in asked
    with pytest.raises(UserError, match="braces that cannot be filled"):
        request("{number}", 5, 0, 0, 0)


def test_reply() -> None:
    reply = 'Sure! Here are the prompts:\n\n1. A wet road at dusk.\n2) "A bus in fog."\n- A tram.\n* Prompt 4: Snow.\n'
    assert parse_reply(reply)[:3] == ["A wet road at dusk.", "A bus in fog.", "A tram."]


@given(st.text(max_size=200))
def test_any_reply_gives_lines(reply: str) -> None:
    for prompt in parse_reply(reply):
        assert prompt == prompt.strip()
        assert prompt
        assert "\n" not in prompt


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("A photo of a wet road with cars at dusk.", None),
        ("A wet road.", "not 5 to 40 words"),
        ("road " * 41, "not 5 to 40 words"),
        ("A photo of a *wet* road with cars at dusk.", "markup or odd characters"),
        ("A photo of a cat on a sofa.", "nothing of a street in it"),
        ("A road " + "ununununum " * 30, "more than 77 tokens"),
        ("A photo of the busy road in the rain.", "like one that was taken"),
    ],
)
def test_refusal(prompt: str, reason: str | None) -> None:
    assert refusal(prompt, ["A photo of a busy road in the rain."], count) == reason


def test_until_there_are_enough() -> None:
    def writer(requests: Sequence[str], seed: int) -> list[str]:
        return [
            f"1. A photo of road number{seed}{place} and shop{place}{seed} x{seed}" for place in range(len(requests))
        ]

    def turns(count_: int, **more: object) -> list[str]:
        made = write_prompts(writer, count=count_, seed=0, requests=2, count_tokens=count, **more)  # type: ignore[arg-type]
        return [prompt for turn in made for prompt in turn.taken]

    whole = turns(7)
    assert len(whole) == len(set(whole)) == 7
    assert turns(7, taken=whole[:4], first_turn=2) == whole[4:]
    assert len(turns(100, max_turns=3)) == 6


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a language model with random weights and a chat template."""
    folder = tmp_path_factory.mktemp("babbler")
    words = tokenizer()
    words.model_max_length = 4096
    words.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    words.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), max_position_embeddings=4096, bos_token_id=0, eos_token_id=1, **sizes)
    ).save_pretrained(folder)
    return folder


def test_a_model_that_differs_from_its_record(babbler: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(babbler, tmp_path / "babbler"))
    write_sha256(copied / "model.safetensors")
    ChatModel(ChatSettings(str(copied), device="cpu"))
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    with pytest.raises(UserError, match=r"The chat model .* cannot be loaded: .* is damaged \(its checksum differs\)"):
        ChatModel(ChatSettings(str(copied), device="cpu"))


def test_a_model_that_babbles(babbler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ChatModel(ChatSettings(str(babbler), device="cpu", max_new_tokens=8))
    assert model(["a street", "bus"], 5) == model(["a street", "bus"], 5)
    assert model(["a street", "bus"], 5) != model(["a street", "bus"], 6)
    flags = ["--model", str(babbler), "--output", str(tmp_path / "p.txt"), "--max-turns", "2", "--max-new-tokens", "8"]
    assert command.main([*flags, "--num-prompts", "3"]) == 2
    assert "wrote 0 of 3 prompts in 2 turns" in capsys.readouterr().err
    assert not (tmp_path / "p.txt").exists()


def test_the_command(babbler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def reply(self: ChatModel, requests: Sequence[str], seed: int) -> list[str]:
        calls.append(seed)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
            while stop_requested() is None:
                time.sleep(0.01)
        return [
            f"A view of the road with bus{place}x{seed} near shop{seed}{place} today" for place in range(len(requests))
        ]

    monkeypatch.setattr(ChatModel, "__call__", reply)
    output = tmp_path / "p.txt"
    flags = ["--model", str(babbler), "--output", str(output), "--num-prompts", "10"]
    assert command.main(flags) == 75  # stopped, after the reply
    assert not output.exists()
    assert command.main(flags) == 0
    assert calls == [0, 1, 2], "it goes on"
    assert len(read_prompts(output)) == 10
    assert json.loads((tmp_path / "p.txt.json").read_text())["seed"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.txt", "p.txt.json"]
    assert command.main(flags) == 2  # the file exists
    assert command.main([*flags, "--force", "--num-prompts", "2"]) == 0
    assert len(read_prompts(output)) == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "no/such"], "The chat model 'no/such' cannot be loaded"),
        (["--instruction", "no/such"], "The instruction no/such (--instruction) cannot be read: No such file"),
        (
            ["--output", "/dev/null/x"],
            "/dev/null cannot be written (another file has its name)",
        ),
        (["--device", "cuda:9"], "--device cuda:9 asks for GPU 9"),
    ],
)
def test_mistakes(
    babbler: Path, tmp_path: Path, sentence: Callable[..., str], more: list[str], says: str
) -> None:  # fmt: skip
    flags = ["--model", str(babbler), "--output", str(tmp_path / "p.txt"), *more]
    assert sentence(command.main, *flags).startswith(says)
    assert list(tmp_path.iterdir()) == []


def test_prompts_of_an_interrupted_call(
    babbler: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sentence: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def reply(self: ChatModel, requests: Sequence[str], seed: int) -> list[str]:
        if seed == 1:
            raise KeyboardInterrupt
        return [f"A view of the road with bus{place} near shop{place} today" for place in range(len(requests))]

    monkeypatch.setattr(ChatModel, "__call__", reply)
    output = tmp_path / "p.txt"
    unfinished = tmp_path / "p.txt.unfinished"
    flags = ["--model", str(babbler), "--output", str(output), "--num-prompts", "10"]
    assert command.main(flags) == 130  # interrupted
    kept = unfinished.read_bytes()
    capsys.readouterr()
    assert kept.count(b"\n") == 5
    # Prompts of other settings are not mixed.
    (tmp_path / "instruction.txt").write_text("Write {count} prompts.")
    for more, name in (
        (["--seed", "1"], "seed"),
        (["--temperature", "0.5"], "temperature"),
        (["--instruction", str(tmp_path / "instruction.txt")], "instruction"),
    ):
        assert f"written with another {name}: give the same settings" in sentence(command.main, *flags, *more)
    # A damaged file is not continued.
    for damage in (kept[:-5], kept + b"\xff\n", kept + b"{}\n", b"{}\n", b'{"recipe": 3}\n', b"0\tA street\n"):
        unfinished.write_bytes(damage)
        assert "p.txt.unfinished is damaged" in sentence(command.main, *flags)
    unfinished.write_bytes(kept)
    monkeypatch.setattr(
        ChatModel,
        "__call__",
        lambda self, requests, seed: [
            f"A view of the road with car{place}x{seed} near house{seed}{place} today" for place in range(len(requests))
        ],
    )
    assert command.main(flags) == 0
    prompts = read_prompts(output)
    assert len(prompts) == 10
    assert prompts[0] == "A view of the road with bus0 near shop0 today"
    assert not unfinished.exists()


def test_prompts_are_written_by_one_process(
    babbler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: Callable[..., str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = sentence(command.main, "--model", str(babbler), "--output", str(tmp_path / "p.txt"))
    assert said.startswith("Prompts are written by one process")


def test_a_reply_with_line_separators_of_unicode() -> None:
    assert parse_reply("A wet\u2028road\x85at dusk.\r\nA tram.") == ["A wet road at dusk.", "A tram."]
