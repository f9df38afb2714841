"""The command ``clouds`` as ``python -m clouds``, also for torchrun: ``torchrun ... -m clouds train ...``."""

import sys

from clouds.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
