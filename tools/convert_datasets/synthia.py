"""Convert the label files of SYNTHIA, see ``python tools/convert_datasets/synthia.py --help``."""

import sys

try:
    from clouds.commands.convert_datasets import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main("synthia"))
