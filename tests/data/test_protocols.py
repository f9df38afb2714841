"""Protocols: the files of this package, the sizes that they give, own files, and errors in one sentence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.config import load_config
from clouds.data.classes import CITYSCAPES_CLASSES, short_name
from clouds.data.datasets.catalog import domains, register_datasets
from clouds.data.protocols import FOLDER, Protocol, Sizes, build_protocols, check_domains, means_of, read_protocol
from clouds.errors import UserError
from clouds.utils.resources import resource_root

SHORT_EDGE = (1024, 1820)
NAMES = ("full_resolution", "published_short_edge", "cityscapes_official", "rein_512", "rein_1024")


def write(path: Path, **changed: str) -> str:
    """Write a valid protocol with other values for some of its keys; "" leaves a key out. Return its path."""
    lines = {"input": "image", "labels": "image", "window": "64", "stride": "32"} | changed
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return str(path)


def test_the_protocols_of_this_package() -> None:
    files = {path.stem for path in (resource_root() / FOLDER).iterdir()}
    assert files == set(NAMES)
    for name in NAMES:
        assert read_protocol(name).name == name
        text = (resource_root() / FOLDER / f"{name}.yaml").read_text()
        assert "# Source:" in text or "# Known" in text, "each file says where it is from"


@pytest.mark.parametrize(
    ("name", "domain", "image", "expected"),
    [
        ("full_resolution", "cityscapes", (720, 1280), Sizes(SHORT_EDGE, (720, 1280))),
        ("cityscapes_official", "bdd", (720, 1280), Sizes(SHORT_EDGE, (720, 1280))),
        ("published_short_edge", "bdd", (720, 1280), Sizes(SHORT_EDGE, SHORT_EDGE)),
        ("rein_512", "cityscapes", (1024, 2048), Sizes((512, 1024), (1024, 2048), (512, 512), (341, 341))),
        ("rein_512", "bdd", (720, 1280), Sizes((720, 1280), (720, 1280), (512, 512), (341, 341))),
        ("rein_512", "gta5", (1052, 1914), Sizes((720, 1280), (1052, 1914), (512, 512), (341, 341))),
        # Halves of odd sizes are rounded up.
        ("rein_512", "mapillary", (2447, 3265), Sizes((1224, 1633), (1224, 1633), (512, 512), (341, 341))),
        ("rein_512", "acdc_night", (1080, 1920), Sizes((1080, 1920), (1080, 1920), (512, 512), (341, 341))),
        ("rein_512", "world", (96, 128), Sizes((96, 128), (96, 128))),  # the window covers the image
        ("rein_1024", "cityscapes", (1024, 2048), Sizes((1024, 2048), (1024, 2048), (1024, 1024), (683, 683))),
        ("rein_1024", "bdd", (720, 1280), Sizes((720, 1280), (720, 1280), (1024, 1024), (683, 683))),
    ],
)
def test_sizes(name: str, domain: str, image: tuple[int, int], expected: Sizes) -> None:
    assert read_protocol(name).sizes(domain, image, SHORT_EDGE) == expected


@pytest.mark.parametrize("name", NAMES)
def test_absent_classes(name: str) -> None:
    assert read_protocol(name).absent == ("left_out" if name in NAMES[:2] else "zero")


def test_a_protocol_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "input: {default: short_edge, 'acdc_*': [90, 160], acdc_fog: image, gta5: short_edge 512}\n"
        "labels: {default: image, bdd: input}\n"
        "window: [64, 96]\n"
        "absent_classes: zero\n"
        "means: {mIoU2: [road, sky]}\n"
    )
    protocol = read_protocol(str(path))
    assert (protocol.name, protocol.absent, protocol.means) == ("mine", "zero", {"mIoU2": ("road", "sky")})
    window = {"window": (64, 96), "stride": (64, 96)}
    assert protocol.sizes("bdd", (720, 1280), SHORT_EDGE) == Sizes(SHORT_EDGE, SHORT_EDGE, **window)
    for domain in ("acdc_fog", "acdc_night"):  # the first pattern that matches counts
        assert protocol.sizes(domain, (720, 1280), SHORT_EDGE) == Sizes((90, 160), (720, 1280), **window)
    assert protocol.sizes("gta5", (1052, 1914), SHORT_EDGE) == Sizes((512, 932), (1052, 1914), **window)
    assert protocol.sizes("acdc", (720, 1280), SHORT_EDGE).input_size == SHORT_EDGE


def test_domains_are_those_of_data_sets() -> None:
    sizes = {"bdd": "image", "acdc_*": "input", "default": "image"}
    check_domains(Protocol("mine", sizes, sizes), {"bdd", "acdc_fog"})
    for known, name in (({"bdd", "acdc"}, r"acdc_\*"), ({"bdd_val", "acdc_fog"}, "bdd")):
        with pytest.raises(UserError, match=rf"The protocol mine \(domains of input\) names '{name}', .* the nearest"):
            check_domains(Protocol("mine", sizes, {"default": "image"}), known)
    with pytest.raises(UserError, match=r"domains of labels\) names 'bdd'"):
        check_domains(Protocol("mine", {"default": "image"}, sizes), {"acdc_fog"})


@pytest.mark.parametrize("name", NAMES)
def test_the_protocols_of_this_package_name_domains_of_its_data_sets(name: str) -> None:
    register_datasets()
    check_domains(read_protocol(name), domains())


@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.floats(0.001, 16))
def test_a_factor_never_gives_an_empty_image(image: tuple[int, int], factor: float) -> None:
    protocol = Protocol("p", {"default": factor}, {"default": "input"})
    sizes = protocol.sizes("any", image, image)
    assert sizes.input_size == sizes.label_size
    for side, length in zip(image, sizes.input_size, strict=True):
        assert length >= 1 and abs(length - factor * side) <= 1


def test_the_config_names_protocols(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml")
    cfg = load_config(None, ["TEST.PROTOCOLS", str(("rein_512", path))])
    assert [protocol.name for protocol in build_protocols(cfg)] == ["rein_512", "mine"]
    for options in ([], ["TEST.PROTOCOL", "published_short_edge"]):
        assert [each.name for each in build_protocols(load_config(None, options))] == options[1:] or ["full_resolution"]


def test_networks_trained_on_synthia_have_its_means() -> None:
    protocol = read_protocol("full_resolution")
    means = means_of(protocol, CITYSCAPES_CLASSES, ["synthia"])
    assert {name: len(names) for name, names in means.items()} == {"mIoU16": 16, "mIoU13": 13}
    assert means_of(protocol, CITYSCAPES_CLASSES, ["synthia_fit"]) == means
    missing = {short_name(each) for each in CITYSCAPES_CLASSES} - set(means["mIoU16"])
    assert missing == {"terrain", "truck", "train"}
    assert set(means["mIoU16"]) - set(means["mIoU13"]) == {"wall", "fence", "pole"}
    assert means_of(protocol, CITYSCAPES_CLASSES, ["gta5"]) == {}
    assert means_of(protocol, ["road", "sky"], ["synthia"]) == {}
    own = Protocol("p", {"default": "image"}, {"default": "image"}, means={"mIoU16": ("road",)})
    assert means_of(own, CITYSCAPES_CLASSES, ["synthia"])["mIoU16"] == ("road",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imput": "image"}, r"names 'imput', which does not exist; the nearest that do: input"),
        ({"input": ""}, "it has no input"),
        ({"input": "{cityscapes: image}"}, "input has no entry default, for the data sets that it does not name"),
        (
            {"input": "input"},
            r"input of default is 'input', which must be image, short_edge, short_edge and a number of pixels",
        ),
        ({"labels": "short_edge"}, "labels of default is 'short_edge', which must be image, input, a factor"),
        ({"labels": "short_edge 512"}, "labels of default is 'short_edge 512'"),
        ({"input": "short_edge 0"}, "input of default is 'short_edge 0'"),
        ({"input": "512"}, r"input of default is 512, which must be .* or \[height, width\], each up to"),
        ({"input": "[512]"}, r"input of default is \[512\]"),
        ({"input": "[512, 0]"}, r"input of default is \[512, 0\]"),
        ({"input": "true"}, "input of default is True"),
        ({"input": "0.0"}, "input of default is 0.0"),
        ({"labels": "{default: image, bdd: [1, 2, 3]}"}, r"labels of bdd is \[1, 2, 3\]"),
        ({"stride": "0"}, "stride is 0, which must be a number of pixels, from 1"),
        ({"stride": "[32, 0]"}, r"stride is \[32, 0\], which must be"),
        ({"stride": "65"}, r"its stride \[65, 65\] is larger than its window \[64, 64\] and leaves gaps"),
        ({"window": ""}, "it has a stride without a window"),
        ({"window": "large"}, "window is 'large', which must be a number of pixels"),
        ({"input": "[63, 128]"}, r"its window \[64, 64\] is larger than the input of default, \[63, 128\]"),
        ({"absent_classes": "nan"}, "absent_classes is 'nan', which must be left_out or zero"),
        ({"means": "[road]"}, "means must be `key: value` pairs"),
        ({"means": "{mIoU2: road}"}, "the mean mIoU2 must be a list of names of classes"),
        ({"means": "{mIoU2: []}"}, "the mean mIoU2 must be a list of names of classes"),
        ({"means": "{mIoU: [road]}"}, "'mIoU' is no name of a mean"),
        ({"means": "{a/b: [road]}"}, "'a/b' is no name of a mean"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    path = write(tmp_path / "mine.yaml", **changed)
    with pytest.raises(UserError, match=message) as error:
        read_protocol(path)
    assert str(error.value).startswith(f"The protocol {path}")


@pytest.mark.parametrize("content", ["", "[]", "full_resolution"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match="the file must be `key: value` pairs"):
        read_protocol(str(tmp_path / "mine.yaml"))


def test_unknown_protocols_and_names_that_are_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"TEST\.PROTOCOLS names 'rein512', .* the nearest that do: rein_512"):
        build_protocols(load_config(None, ["TEST.PROTOCOLS", "('rein512',)"]))
    with pytest.raises(UserError, match=r"mine\.yaml does not exist"):
        read_protocol(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="has the name of one that CLOUDS has, rein_512: rename the file"):
        read_protocol(write(tmp_path / "rein_512.yaml"))
    assert read_protocol(f"{FOLDER}/rein_512.yaml") == read_protocol("rein_512")
    with pytest.raises(UserError, match=r"its name is 'my protocol', which must be 1 to 100 letters"):
        read_protocol(write(tmp_path / "my protocol.yaml"))
    (tmp_path / "other").mkdir()
    pair = (write(tmp_path / "mine.yaml"), write(tmp_path / "other/mine.yaml"))
    with pytest.raises(UserError, match=r"TEST\.PROTOCOLS has two protocols of the name mine"):
        build_protocols(load_config(None, ["TEST.PROTOCOLS", str(pair)]))
