"""DatasetCatalog and MetadataCatalog."""

import uuid

import pytest

from clouds.d2 import DatasetCatalog, MetadataCatalog


@pytest.fixture
def name():
    name = f"seam_{uuid.uuid4().hex}"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)


def test_datasets(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"file_name": "a.png"}])
    assert calls == []  # registering reads nothing
    assert DatasetCatalog.get(name) == [{"file_name": "a.png"}]
    assert name in DatasetCatalog
    assert name in DatasetCatalog.list()
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(f"{name}_2", [])
    DatasetCatalog.remove(name)
    with pytest.raises(KeyError, match=r"is not registered.*vailable|is not registered.*Registered"):
        DatasetCatalog.get(name)


def test_metadata(name):
    metadata = MetadataCatalog.get(name)
    assert MetadataCatalog.get(name) is metadata
    assert metadata.name == name
    assert metadata.set(ignore_label=255, stuff_classes=["road"]) is metadata
    metadata.ignore_label = 255  # setting the same value again is allowed
    with pytest.raises(AssertionError, match="ignore_label"):
        metadata.ignore_label = 0
    with pytest.raises(AttributeError, match="stuff_colors"):
        metadata.stuff_colors  # noqa: B018
    assert vars(metadata) == {"name": name, "ignore_label": 255, "stuff_classes": ["road"]}
    assert name in MetadataCatalog.list()
    MetadataCatalog.remove(name)
    assert MetadataCatalog.get(name) is not metadata
