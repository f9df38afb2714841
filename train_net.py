"""Train or evaluate a network, see ``python train_net.py --help``."""

import sys

try:
    from clouds.commands.train import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
