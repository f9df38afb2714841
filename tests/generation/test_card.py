"""Card of a generated set."""

import yaml

from clouds.generation.card import dataset_card
from tests.generation.test_run import PROMPTS, SETTINGS

DESCRIPTION = {"settings": SETTINGS, "prompts": PROMPTS, "licence": "x: y", "runs": []}


def test_front_matter_of_any_name_is_yaml() -> None:
    text = str(dataset_card('a "set": #1', DESCRIPTION, [], []))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "license": "x: y",
        "pretty_name": 'a "set": #1',
        "task_categories": ["image-segmentation"],
        "tags": ["synthetic", "driving"],
    }


def test_content() -> None:
    runs = [{"seconds": 1800, "versions": {"torch": "1"}}, {"seconds": 5400, "versions": {"torch": "2", "numpy": "3"}}]
    settings = {**SETTINGS, "model": "/home/me/diffusion/"}
    rows = [{"width": 20, "height": 12}] * 1200 + [{"width": 8, "height": 8}]
    text = str(dataset_card("set", DESCRIPTION | {"settings": settings, "runs": runs}, rows, [{}, {}]))
    for line in (
        "# set",
        "| images | 1,201 |",
        "| sizes (width x height) | 20x12: 1,200, 8x8: 1 |",
        "| model | diffusion |",
        "| negative prompt | none |",
        "| versions | torch 2, numpy 3 |",
        "| time | 2.00 hours, over all processes |",
        "| rejected | 2 |",
        "* a bus",
    ):
        assert f"\n{line}\n" in text
    assert "\n\n\n" not in text
    hub = str(dataset_card("set", DESCRIPTION | {"settings": {**SETTINGS, "model": "owner/name"}}, [], []))
    assert "\n| model | owner/name |\n" in hub
