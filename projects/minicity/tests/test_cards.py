"""Model cards: rendering, commands, and the paths that cards, README and configs name."""

import re
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import ModelCard
from minicity.cards import TEMPLATES, command_line, render, write_card
from minicity.paths import PROJECT, REPOSITORY, shown

CARDS = sorted((PROJECT / "weights").glob("*/README.md"))
TEXTS = [*CARDS, PROJECT / "README.md", PROJECT / "RESULTS.md", *sorted((PROJECT / "configs").glob("*.yaml"))]


def test_paths_are_shown_relative_to_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    assert (
        shown(PROJECT / "weights/sam")
        == shown(Path("projects/minicity/weights/sam"))
        == "projects/minicity/weights/sam"
    )
    assert shown(tmp_path / "sam") == str(tmp_path / "sam")


def test_a_command_line_leaves_out_what_is_not_set():
    flags = {"model_config": PROJECT / "configs/clip_resnet_mini.json", "steps": 3, "bfloat16": True, "half": False}
    assert command_line("train_clip.py", {**flags, "sizes": None, "output": Path("/a folder")}) == (
        "python projects/minicity/tools/train_clip.py --model-config projects/minicity/configs/clip_resnet_mini.json "
        "--steps 3 --bfloat16 --output '/a folder'"
    )


def test_a_missing_value_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError):
        write_card(tmp_path, "sam.md.jinja", library="segment-anything", task="mask-generation")
    assert not (tmp_path / "README.md").exists()


def test_filters(monkeypatch, tmp_path):
    (tmp_path / "x.jinja").write_text("{{ 1234567 | millions }} M, {{ 0.5 | percent }} %")
    monkeypatch.setattr("minicity.cards.TEMPLATES", tmp_path)
    assert render("x.jinja") == "1.2 M, 50.0 %"


def test_every_template_is_used():
    sources = [file.read_text() for file in [*(PROJECT / "minicity").rglob("*.py"), *TEMPLATES.iterdir()]]
    for template in TEMPLATES.iterdir():
        assert any(f'"{template.name}"' in source for source in sources), template.name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_have_metadata(card: Path):
    data = ModelCard.load(card).data
    assert data.license == "apache-2.0"
    assert data.pipeline_tag


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: str(text.relative_to(PROJECT)))
def test_named_files_exist(text: Path):
    content = text.read_text(encoding="utf-8")
    named = set(re.findall(r"projects/minicity/[\w./-]*\w", content))
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    linked = set(re.findall(r"\]\(([^)#:]+)\)", content))
    missing += [name for name in linked if not (text.parent / name).exists()]
    assert not missing
