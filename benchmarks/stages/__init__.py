"""Stages of `benchmarks/gpu.py`. A stage is a function that takes a `Bench` and its `Inputs`."""

# Name of the stage: its module and function. Imported when it runs, so that a missing library fails one stage only.
STAGES = {
    "hardware": ("stages.hardware", "measure_hardware"),
    "attention": ("stages.attention", "measure_attention"),
    "backbone": ("stages.parts", "measure_backbone"),
    "pixel_decoder": ("stages.parts", "measure_pixel_decoder"),
    "decoder": ("stages.parts", "measure_decoder"),
    "criterion": ("stages.parts", "measure_criterion"),
    "optimizer": ("stages.parts", "measure_optimizer"),
    "step": ("stages.training", "measure_labelled_step"),
    "joint": ("stages.training", "measure_joint_step"),
    "evaluation": ("stages.evaluation", "measure_evaluation"),
    "sam": ("stages.foundation", "measure_sam"),
    "diffusion": ("stages.foundation", "measure_diffusion"),
}
