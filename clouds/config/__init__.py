"""The config: `defaults` lists every key, `schema` its type and range, `loading` reads files and command lines."""

from clouds.config.detectron2_keys import set_detectron2_keys
from clouds.config.loading import check_weights, get_config, load_config

__all__ = ["check_weights", "get_config", "load_config", "set_detectron2_keys"]
