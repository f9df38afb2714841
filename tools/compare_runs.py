"""Say what differs between two trainings, see ``python tools/compare_runs.py --help``."""

import sys

try:
    from clouds.commands.compare_runs import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
