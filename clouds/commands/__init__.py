"""The commands: a module each, with its parser and its work."""
