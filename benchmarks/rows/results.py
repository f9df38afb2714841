"""Tables of RESULTS.md. A table lies between two comments; the text around them is written by people and is kept.

    <!-- training begin --> ... <!-- training end -->

`summary` is the table of all rows; of it, only the lines of the rows that were run are replaced.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rows import FORMULATION, OURS, PUBLISHED, ROWS, TRANSFORMERS, Row

SUMMARY = "summary"
_HEADS = {PUBLISHED: "(a) published code", FORMULATION: "(a) published formulation", TRANSFORMERS: "(b) transformers"}
_SUMMARY_HEAD = ["| row | | ours / peer | at most | |", "|---|---|---|---|---|"]


def update(text: str, record: Mapping[str, Any]) -> str:
    """Return RESULTS.md with the tables of a run.

    Args:
        text: RESULTS.md as it is.
        record: content of the JSON file of `bench.py`; sections that it lacks keep their tables.
    """
    sections: dict[str, list[str]] = {}
    for name in record["rows"]:
        sections.setdefault(section_of(name), []).append(name)
    for section, names in sections.items():
        text = replaced(text, section, section_table(names, record))
    return replaced(text, SUMMARY, summary(between(text, SUMMARY), record))


def section_of(name: str) -> str:
    """Return the section of a row: the part of its name before the slash."""
    return name.partition("/")[0]


def between(text: str, section: str) -> str:
    """Return what lies between the comments of a section; "" if there are none."""
    found = re.search(rf"<!-- {section} begin -->\n(.*?)<!-- {section} end -->", text, re.DOTALL)
    return found[1] if found else ""


def replaced(text: str, section: str, table: str) -> str:
    """Return the text with another table in a section, which is added at the end if the text lacks it."""
    begin, end = f"<!-- {section} begin -->\n", f"<!-- {section} end -->"
    if begin not in text:
        return f"{text.rstrip()}\n\n## {section.replace('_', ' ').capitalize()}\n\n{begin}{table}{end}\n"
    before, _, rest = text.partition(begin)
    return before + begin + table + end + rest.partition(end)[2]


def section_table(names: Sequence[str], record: Mapping[str, Any]) -> str:
    """Return the tables of a section, how the sides agree, what is left, and where the numbers come from."""
    parts = [table_of(names, record["rows"])]
    notes = [f"* `{name}`: {note}" for name in names for note in notes_of(name, record["rows"][name])]
    return "\n".join([*parts, *notes, "", origin(record), ""])


def table_of(names: Sequence[str], rows: Mapping[str, Any]) -> str:
    """Return one line a row and one column a side."""
    sides = list(dict.fromkeys(side for name in names for side in ROWS[name].sides))
    head = ["", *(_HEADS.get(side, side) for side in sides), "ours / peer", "target"]
    memory = any(ROWS[name].memory for name in names)
    head += ["peak memory: ours, peers, ratio", "target"] if memory else []
    lines = [head, ["---"] * len(head)]
    for name in names:
        row, result = ROWS[name], rows[name]
        cells = [
            f"`{name}`: {result['title']}",
            *(shown(result["sides"].get(side), side in row.sides) for side in sides),
        ]
        cells += [ratios(result["ratios"]), at_most(row)]
        if memory:
            cells += [shown_memory(result), f"{row.memory:g}" if row.memory else ""]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines) + "\n"


def shown(side: Mapping[str, Any] | None, part_of_row: bool) -> str:
    """Return a cell: median and range of the processor time, and the wall time; or counts."""
    if side is None or "reason" in (side or {}):
        return "not measured" if part_of_row else ""
    if "counts" in side:
        return " / ".join(f"{count:,}" for count in side["counts"])
    (middle, low, high), (wall, *_) = side["processor"], side["wall"]
    scale, unit = (1, "s") if middle >= 1 else (1000, "ms")
    digits = 3 if scale * high < 100 else 4
    low, middle, high, wall = (f"{scale * each:.{digits}g}" for each in (low, middle, high, wall))
    return f"{middle} {unit} ({low}-{high}; wall {wall}; n {side['rounds']})"


def shown_memory(result: Mapping[str, Any]) -> str:
    if not result["memory_ratios"]:
        return "not measured"
    peaks = [f"{side['memory']:,.0f}" for side in result["sides"].values() if "memory" in side]
    return f"{', '.join(peaks)} MiB, {ratios(result['memory_ratios'])}"


def ratios(values: Mapping[str, float]) -> str:
    return ", ".join(f"**{value:.2f}**" for value in values.values())


def at_most(row: Row) -> str:
    if row.most:
        return " / ".join(map(str, row.most))
    return "" if row.target is None else f"{row.target:g}"


def missed(name: str, result: Mapping[str, Any]) -> str:
    """Return "time", "memory" if only that is missed, or "" if no ratio and no count is above its target."""
    words = verdict(name, result)
    if "missed" not in words:
        return ""
    return "memory" if words.endswith("memory missed") and "time missed" not in words else "time"


def verdict(name: str, result: Mapping[str, Any]) -> str:
    """Return "met", "missed" or "not measured", for time and memory each where both have targets."""
    row = ROWS[name]
    if row.most:
        pairs = zip(result["sides"][OURS]["counts"], row.most, strict=True)
        return "missed" if any(count > most for count, most in pairs) else "met"
    found = {"time": (row.target, result["ratios"]), "memory": (row.memory, result["memory_ratios"])}
    words = {
        what: "not measured" if not values else "missed" if max(values.values()) > target else "met"
        for what, (target, values) in found.items()
        if target is not None
    }
    return ", ".join(f"{what} {word}" for what, word in words.items()) if len(words) > 1 else "".join(words.values())


def notes_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return how the sides agree, why sides are missing, and the largest parts of ours where a target is missed."""
    notes = [f"{result['agreement']}."] if result["agreement"] else []
    notes += [
        f"{side} is not measured: {each['reason']}." for side, each in result["sides"].items() if "reason" in each
    ]
    if result["left"]:
        parts = ", ".join(f"`{part}` {share:.0%}" for part, share in result["left"]["parts"])
        what = {"time": "by its own time", "memory": "by operation, of the tensors at the peak of memory"}
        notes.append(f"a target is missed. What is left of ours, {what[result['left']['of']]}: {parts}.")
    return notes


def origin(record: Mapping[str, Any]) -> str:
    """Return command, date, hardware and versions of a run."""
    return (
        f"`{record['command']}`, {record['date']}, code {record['code']}; {record['cpu']}, {record['cores']} cores, "
        f"{record['threads']} thread{'s' * (record['threads'] > 1)}; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        + ". Processor time, median (smallest-largest; median of the wall time; number of rounds)."
    )


def summary(table: str, record: Mapping[str, Any]) -> str:
    """Return the table of all rows; rows that were not run keep their line."""
    lines = {line.split("`")[1]: line for line in table.splitlines()[2:]}
    for name, result in record["rows"].items():
        row = ROWS[name]
        if row.target is not None or row.most:
            values = ", ".join(f"{value:.2f} of {peer}" for peer, value in result["ratios"].items())
            values = " / ".join(map(str, result["sides"][OURS]["counts"])) if row.most else values
            line = [f"`{name}`", result["title"], values, at_most(row), verdict(name, result)]
            lines[name] = f"| {' | '.join(line)} |"
    ordered = [lines[name] for name in ROWS if name in lines]
    return "\n".join([*_SUMMARY_HEAD, *ordered, ""])
