"""Run the experiment in small: python projects/minicity/tools/experiment.py minicity [--full] (see --help)."""

import sys

from minicity.experiment.command import main

if __name__ == "__main__":
    sys.exit(main())
