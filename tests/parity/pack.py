"""Make the reduced copy of the golden data: `python -m tests.parity.pack FULL_FOLDER`."""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

COPY = Path(__file__).parents[1] / "data" / "golden"
CASES = ("convnext_closed", "convnext_text", "rn_closed")
TOKENS = "backbone.clip_model.token_embedding.weight"
STEP = 4
EMA = ("ema_student_initial", "ema_after_1", "ema_after_3")


def pack(full: Path) -> None:
    COPY.mkdir(parents=True, exist_ok=True)
    used = np.unique(np.load(full / "backbone_convnext.npz")["text_tokens"])
    for case in CASES:
        values = load_file(full / f"state_{case}.safetensors")
        clip = {key: value for key, value in values.items() if key.startswith("backbone.")}
        rest = {key: value for key, value in values.items() if key not in clip}
        clip |= {"rows": used, TOKENS: clip[TOKENS][used]}
        save_file(clip, COPY / f"clip_{case.split('_')[0]}.safetensors")
        save_file(rest, COPY / f"rest_{case}.safetensors")
        with np.load(full / f"infer_{case}.npz") as file:
            thin = {
                key: a[:, ::STEP, ::STEP] if "semseg" in key or key.startswith("semantic") else a
                for key, a in file.items()
            }
        np.savez_compressed(COPY / f"infer_{case}.npz", **thin)
        for kind in ("head", "loss"):
            shutil.copyfile(full / f"{kind}_{case}.npz", COPY / f"{kind}_{case}.npz")
    for name in EMA:  # one small tensor of every kind
        values = load_file(full / f"{name}.safetensors")
        save_file({key: a for key, a in values.items() if a.size <= 1600}, COPY / f"{name}.safetensors")
    arrays = (
        "backbone_convnext",
        "backbone_rn",
        "evaluator",
        "inputs",
        "rn_attnpool_emptymask",
        "sam_coords",
        "sam_stage",
    )
    for name in (*(f"{stem}.npz" for stem in arrays), "prompts.json"):
        shutil.copyfile(full / name, COPY / name)
    for path in full.glob("state_dict_keys_*.txt"):
        shutil.copyfile(path, COPY / path.name)
    shutil.copytree(full / "clip_configs", COPY / "clip_configs", dirs_exist_ok=True, copy_function=shutil.copyfile)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
