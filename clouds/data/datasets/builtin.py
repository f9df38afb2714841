"""The table of built-in data sets: those of the paper's benchmarks, and UrbanSyn."""

from clouds.data.datasets.spec import DatasetSpec

# The 62 images that the published list of training images leaves out.
GTA5_OMITTED = frozenset(f"{number:05d}" for number in (15188, 17705, *range(20801, 20861)))


def _cityscapes(split: str, num_pairs: int) -> DatasetSpec:
    return DatasetSpec(
        f"cityscapes_{split}",
        tuple(
            f"cityscapes/{zipped}leftImg8bit/{split}/*_leftImg8bit.png" for zipped in ("", "leftImg8bit_trainvaltest/")
        ),
        tuple(
            f"cityscapes/{zipped}gtFine/{split}/*_gtFine_labelTrainIds.png" for zipped in ("", "gtFine_trainvaltest/")
        ),
        num_pairs=num_pairs,
        converter="cityscapes",
    )


def _acdc(weather: str, num_pairs: int) -> DatasetSpec:
    return DatasetSpec(
        f"acdc_{weather}_val",
        tuple(f"acdc/{zipped}rgb_anon/{weather}/val/*_rgb_anon.png" for zipped in ("", "rgb_anon_trainvaltest/")),
        tuple(f"acdc/{zipped}gt/{weather}/val/*_gt_labelTrainIds.png" for zipped in ("", "gt_trainval/")),
        num_pairs=num_pairs,
    )


_VISTAS = ("mapillary_vistas/validation", "mapillary-vistas-dataset_public_v1.2/validation")

BUILTIN_DATASETS: tuple[DatasetSpec, ...] = (
    DatasetSpec(
        "gta5",
        ("gta5/images/*.png",),
        ("gta5/labels/*_labelTrainIds.png",),
        num_pairs=24904,
        num_downloaded=24966,
        converter="gta",
        omitted=GTA5_OMITTED,
    ),
    DatasetSpec(
        "synthia",
        ("synthia/RGB/*.png", "RAND_CITYSCAPES/RGB/*.png"),
        ("synthia/GT/LABELS/*_labelTrainIds.png", "RAND_CITYSCAPES/GT/LABELS/*_labelTrainIds.png"),
        num_pairs=9400,
        converter="synthia",
    ),
    DatasetSpec(
        "urbansyn",
        ("urbansyn/rgb/rgb_*.png", "UrbanSyn/rgb/rgb_*.png"),
        ("urbansyn/ss/ss_*_labelTrainIds.png", "UrbanSyn/ss/ss_*_labelTrainIds.png"),
        num_pairs=7539,
        converter="urbansyn",
    ),
    _cityscapes("train", 2975),
    _cityscapes("val", 500),
    DatasetSpec(
        "bdd_val",
        tuple(f"{top}/{images}/val/*.jpg" for top in ("bdd10k", "bdd100k") for images in ("images/10k", "seg/images")),
        tuple(
            f"{top}/{labels}"
            for top in ("bdd10k", "bdd100k")
            for labels in ("labels/sem_seg/masks/val/*.png", "seg/labels/val/*_train_id.png")
        ),
        num_pairs=1000,
    ),
    DatasetSpec(
        "mapillary_val",
        tuple(f"{folder}/images/*.jpg" for folder in _VISTAS),
        tuple(
            f"{folder}/{version}labels/*_labelTrainIds.png" for folder in _VISTAS for version in ("", "v1.2/", "v2.0/")
        ),
        num_pairs=2000,
        converter="mapillary",
    ),
    *(_acdc(weather, num_pairs) for weather, num_pairs in (("night", 106), ("rain", 100), ("snow", 100), ("fog", 100))),
)

DATASET_GROUPS: dict[str, tuple[str, ...]] = {
    "acdc_val": tuple(f"acdc_{weather}_val" for weather in ("night", "rain", "snow", "fog"))
}
"""Names that stand for several data sets together."""
