import math

import pytest

from clouds.evaluation.tables import Provenance, format_comparison, format_table, mean_of


def metrics(road: float, bus: float) -> dict:
    return {
        "mIoU": (road + bus) / 2,
        "fwIoU": road,
        "mACC": 50.0,
        "pACC": 60.0,
        "IoU-road": road,
        "IoU-bus": bus,
        "ACC-road": 1.0,
    }


def cells(table: str) -> dict[str, list[str]]:
    """Return label -> cells of each line, split at two spaces."""
    lines = [[cell for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_table_has_sets_side_by_side_and_says_where_it_is_from() -> None:
    results = {"city_val": metrics(80, 40), "night_val": metrics(60, math.nan), "sim_val": metrics(90, 70)}
    results["night_val"]["mIoU"] = 60.0
    counts = {"city_val": 500, "night_val": 106, "sim_val": 50}
    table = format_table(
        results, Provenance("full_resolution", "1a2b3c4", 42, counts, unseen=("city_val", "night_val"))
    )
    assert table.splitlines()[0] == "protocol full_resolution, commit 1a2b3c4, seed 42"
    found = cells(table)
    assert found["IoU in %"] == ["city_val", "night_val", "sim_val", "unseen mean"]
    assert found["images"] == ["500", "106", "50"]
    assert found["mIoU"] == ["60.00", "60.00", "80.00", "60.00"]
    assert found["road"] == ["80.00", "60.00", "90.00", "70.00"]
    assert found["bus"] == ["40.00", "-", "70.00", "40.00"]  # an absent class does not count in the mean
    assert "ACC-road" not in table
    assert len({len(line) for line in table.splitlines()[3:]}) == 1  # columns are aligned


def test_table_without_unseen_sets_has_no_mean() -> None:
    table = format_table({"city_val": metrics(80, 40)}, Provenance("full_resolution", "-", 0, {"city_val": 5}))
    assert "unseen" not in table
    assert cells(table)["mIoU"] == ["60.00"]


def test_table_has_the_outlines_where_they_were_scored() -> None:
    outlines = {"mBIoU": 33.0, "BIoU-road": 33.0, "BIoU-bus": math.nan}
    results = {"city_val": metrics(80, 40) | outlines, "fog_val": metrics(60, 20)}
    table = format_table(results, Provenance("p", "c", 0, {"city_val": 5, "fog_val": 6}))
    found = cells(table)
    assert found["mBIoU"] == found["road, boundary"] == ["33.00", "-"]
    assert found["bus, boundary"] == ["-", "-"]
    assert (found["mIoU"], found["road"]) == (["60.00", "40.00"], ["80.00", "60.00"])


def test_comparison_has_a_row_a_method() -> None:
    table = format_comparison(
        {"ours": {"sim": 71.234, "city": 50.0, "fog": 40.0}, "constant": {"sim": 1.5, "city": 2.0}},
        Provenance("full_resolution", "1a2b3c4", 3, {"sim": 8, "city": 16, "fog": 24}, unseen=("city", "fog")),
    )
    found = cells(table)
    assert found["mIoU in %"] == ["sim", "city", "fog", "unseen mean"]
    assert found["images"] == ["8", "16", "24"]
    assert found["ours"] == ["71.23", "50.00", "40.00", "45.00"]
    assert found["constant"] == ["1.50", "2.00", "-", "2.00"]
    assert "commit 1a2b3c4, seed 3" in table


def test_mean_leaves_out_what_is_not_defined() -> None:
    assert mean_of([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean_of([])) and math.isnan(mean_of([math.nan]))


def test_unknown_unseen_set_is_an_error() -> None:
    with pytest.raises(KeyError, match="fog"):
        format_table({"city": metrics(1, 2)}, Provenance("p", "c", 0, {"city": 1}, unseen=("fog",)))
