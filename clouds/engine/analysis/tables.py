"""Tables of an analysis as text, and its content as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from clouds.engine.analysis.analyze import ONCE, Analysis, Part
from clouds.engine.analysis.parameters import SAM, TEACHER, Weights
from clouds.engine.preflight import amount

PASSES = ("forward", "backward", "inference")
CONVENTION = (
    "FLOPs: a multiplication and an addition are two. Matrix products, convolutions, attention and bilinear samples\n"
    "count; what is computed element by element, such as norms, activations, softmax and resizing, does not."
)
_APART = (TEACHER, SAM)  # they are no parts of the network


def format_analysis(name: str, analysis: Analysis) -> str:
    """Return the tables of an analysis.

    Args:
        name: name of the config.
        analysis: the analysis.
    """
    about = analysis.about
    lines = [
        f"{name}: {about['architecture']}",
        f"A training step has {about['training_images']} images of {_size(about['training_size'])}, "
        f"a prediction one of {_size(about['inference_size'])}.",
    ]
    if "note" in about:
        lines.append(f"{about['note']}.")
    rows = [
        [each.name, *_weights(each.weights), *(_flops(each.flops.get(name)) for name in PASSES)]
        for each in analysis.parts
        if each.weights or each.flops
    ]
    rows.append(
        ["network", *_weights(total_weights(analysis)), *(_flops(total_flops(analysis, name)) for name in PASSES)]
    )
    lines += [
        "",
        *table(["", "parameters", "trained", "bytes", *(f"{name} FLOPs" for name in PASSES)], rows),
        "",
        CONVENTION,
    ]
    lines += [f"{each.name}: {each.note}." for each in analysis.parts if each.note]
    if analysis.machine:
        lines += ["", *machine_lines(analysis)]
    return "\n".join(lines)


def machine_lines(analysis: Analysis) -> list[str]:
    """Return the lines about time and memory."""
    machine = analysis.machine
    measured = [each for each in analysis.parts if each.seconds]
    rows = [
        [
            each.name,
            *(_seconds(each.seconds.get(name)) for name in PASSES),
            *(_bytes(each.peak.get(name)) for name in PASSES),
        ]
        for each in measured
    ]
    heading = ["", *(f"{name} s" for name in PASSES), *(f"{name} memory" for name in PASSES)]
    kind = (
        "torch's allocator on the GPU" if machine["device"].startswith("cuda") else "the tensors that operations return"
    )
    peak = machine["process_peak"]
    return [
        f"Time and memory of this machine: {machine['device']}, {machine['dtype']}, {machine['threads']} threads, "
        f"torch {machine['torch']}",
        "",
        *table(heading, rows),
        "",
        f"Memory: most bytes of {kind} during a part, above those before it; a step keeps the activations.",
        "Weights are random: the costs do not depend on their values.",
        *([f"The whole process had {amount(peak)} at its peak."] if peak else []),
    ]


def total_weights(analysis: Analysis) -> Weights:
    """Return the parameters of the network, without teacher and SAM."""
    return sum((each.weights for each in _network(analysis.parts) if each.weights), Weights())


def total_flops(analysis: Analysis, name: str) -> int:
    """Return the FLOPs of a pass of the network, without what runs once."""
    return sum(each.flops.get(name, 0) for each in _network(analysis.parts) if each.note != ONCE)


def content(name: str, analysis: Analysis) -> dict[str, Any]:
    """Return an analysis as plain values, for a JSON file; the arguments are those of `format_analysis`."""
    return {
        "config": name,
        **analysis.about,
        "flops_convention": " ".join(CONVENTION.split()),
        "parts": [dataclasses.asdict(each) for each in analysis.parts],
        "network": {
            "weights": dataclasses.asdict(total_weights(analysis)),
            "flops": {each: total_flops(analysis, each) for each in PASSES},
        },
        "machine": dict(analysis.machine),
    }


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its first column aligned to the left and the others to the right."""
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    cells = [
        [row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]
        for row in [heading, *rows]
    ]
    lines = ["  ".join(row).rstrip() for row in cells]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def quantity(value: float) -> str:
    """Return a number as a text with a unit, such as "1.20 G"."""
    for factor, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.2f}{unit}"
    return f"{value:.0f}"


def _network(parts: Sequence[Part]) -> list[Part]:
    return [each for each in parts if each.name not in _APART]


def _weights(weights: Weights | None) -> list[str]:
    return (
        ["", "", ""]
        if weights is None
        else [quantity(weights.parameters), quantity(weights.trained), amount(weights.size)]
    )


def _flops(value: int | None) -> str:
    return "" if not value else quantity(value)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bytes(value: int | None) -> str:
    return "" if value is None else amount(value)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]} pixels (height x width)"
