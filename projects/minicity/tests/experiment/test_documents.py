"""The result tables of the documents are those of the committed scores."""

import json
import shutil
from pathlib import Path

import pytest
from minicity.experiment import documents
from minicity.experiment.documents import DOCUMENTS, RESULTS, conclusion, write_documents

from clouds.errors import UserError
from clouds.experiments.documents import fill, kept_results
from clouds.experiments.plan import Variant
from clouds.experiments.results import Results

SETS = ("minicity_sim_val", "minicity_fog_val")


def test_the_documents_are_up_to_date(tmp_path: Path) -> None:
    """`python projects/minicity/tools/write_results.py` writes them."""
    for document in DOCUMENTS:
        copy = Path(shutil.copy(document, tmp_path / document.name))
        assert write_documents([copy]) == [], document
        changed = copy.read_text().replace("| 40.45 |" if "README" in document.name else "| 40.6 |", "| 99 |")
        copy.write_text(changed)
        assert write_documents([copy]) == [copy]
        assert copy.read_text() == document.read_text()


def results(**gains: list[float]) -> Results:
    """`gains`: key of a row -> mIoU of each seed on the unseen domain."""
    scores = {
        key: {seed: {name: {"mIoU": value} for name in SETS} for seed, value in enumerate(values, 1)}
        for key, values in gains.items()
    }
    return Results(
        [Variant(key, key, Path()) for key in gains],
        [1, 2, 3],
        SETS,
        SETS[1:],
        scores,
        comparisons=[("joint", "frozen"), ("joint", "longer")],
    )


def test_the_conclusion_says_better_only_where_an_interval_excludes_zero() -> None:
    frozen = [30.0, 31.0, 32.0]
    better, equal = [32.1, 33.0, 34.2], [32.0, 33.2, 34.0]
    assert conclusion(results(frozen=frozen, longer=equal, joint=better)) == (
        "In this miniature, joint training is better than the warm-up, and not shown to be better or worse than as "
        "many more iterations on the source alone: its gain over the warm-up is not attributable to the generated "
        "images."
    )
    assert conclusion(results(frozen=frozen, longer=frozen, joint=better)).endswith(
        "better than the warm-up, and better than as many more iterations on the source alone."
    )
    assert "joint training is worse than the warm-up" in conclusion(results(frozen=better, longer=equal, joint=frozen))
    assert "not shown to be better or worse than the warm-up" in conclusion(
        results(frozen=equal, longer=equal, joint=better)
    )


def test_scores_of_an_experiment_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = kept_results(RESULTS / "readme.json").test_sets
    monkeypatch.setattr(documents, "RESULTS", tmp_path)
    for key, low in (("scratch", 10), ("tuned", 20), ("frozen", 30), ("longer", 31), ("plain", 32), ("joint", 33)):
        for seed in (1, 2):
            folder = tmp_path / f"out/{key}/seed{seed}"
            folder.mkdir(parents=True)
            row = {"iteration": 2} | {
                f"{each}/sem_seg/{score}": low + seed / (2 if key == "joint" else 3)
                for each in sets
                for score in ("mIoU", "fwIoU")
            }
            (folder / "metrics.json").write_text(json.dumps(row) + "\n")
    record = [{"code": {"commit": "0123456789abcdef"}, "machine": {"cpus": 2, "host": "a name"}}]
    monkeypatch.setattr("clouds.experiments.documents.read_record", lambda _: record)
    (tmp_path / "out/scores.json").write_text(json.dumps({"baselines": {"constant": dict.fromkeys(sets, 1.23456)}}))
    file = documents.take_results(tmp_path / "out", "readme")
    content = json.loads(file.read_text())
    assert (content["commit"], content["machine"]) == ("0123456789", {"cpus": 2})
    assert content["baselines"]["constant"][sets[0]] == 1.235
    assert content["rows"]["joint"]["scores"]["2"][sets[0]] == {"mIoU": 34.0, "fwIoU": 34.0}
    for name in ("full", "adapters"):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    part = documents.generated_parts()["seeds"]
    assert part is not None
    assert "Mean and standard deviation over two seeds" in part
    assert "| joint training, SAM's labels | 33.8 ± 0.4 |" in part
    # Differences of 3.167 and 3.333: their mean, and 12.706 standard errors of .083.
    assert "| joint training, against the warm-up | +3.25 | +2.20 to +4.30 | better |" in part
    assert "| frozen CLIP, against fine-tuned CLIP | +10.00 | - | equal in all seeds, no interval |" in part


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a\.json has no results \(KeyError\('rows'\)\): write it again"):
        kept_results(tmp_path / "a.json")


def test_parts_of_a_document() -> None:
    text = "a\n<!-- results: one -->\nold\n<!-- end -->\nb\n<!-- results: two -->\nkept\n<!-- end -->\n"
    assert fill(text, {"one": "new", "two": None}, "x.md") == text.replace("old", "new")
    with pytest.raises(UserError, match=r"x\.md has a part two, which nothing generates: there are one"):
        fill(text, {"one": "new"}, "x.md")
    with pytest.raises(UserError, match=r"x\.md has a part .* without its end"):
        fill("<!-- results: one -->\n", {"one": "new"}, "x.md")
