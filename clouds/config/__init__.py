"""The config: `defaults` has every key, `loading` reads files and command lines."""

from clouds.config.loading import get_config, load_config, resolve_device

__all__ = ["get_config", "load_config", "resolve_device"]
