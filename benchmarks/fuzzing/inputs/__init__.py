"""Kinds of inputs: how a valid one is written and mutated, and which functions of CLOUDS read it."""

from fuzzing.inputs import checkpoints, configs, datasets, generated, images, launch, prompts, records, runs
from fuzzing.inputs.kind import Kind

KINDS: dict[str, Kind] = {
    "configs": configs.KIND,
    "datasets": datasets.KIND,
    "prompts": prompts.KIND,
    "manifests": generated.KIND,
    "images": images.IMAGES,
    "labels": images.LABELS,
    "checkpoints": checkpoints.KIND,
    "records": records.KIND,
    "runs": runs.KIND,
    "launch": launch.KIND,
}
