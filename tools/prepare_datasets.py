"""Convert and check data sets, see ``python tools/prepare_datasets.py --help``."""

import sys

try:
    from clouds.commands.prepare_datasets import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
