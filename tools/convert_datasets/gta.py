"""Convert the label files of GTA5, see ``python tools/convert_datasets/gta.py --help``."""

import sys

try:
    from clouds.commands.convert_datasets import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main("gta"))
