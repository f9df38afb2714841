from collections.abc import Iterator

import pytest

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.datasets.catalog import register


@pytest.fixture
def streets() -> Iterator[str]:
    """Return the name of a registered data set with the 19 classes."""
    name = "streets_of_the_evaluation_tests"
    register(name, list)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
