"""Make a submission to a test server, see ``python tools/make_submission.py --help``."""

import sys

try:
    from clouds.commands.make_submission import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
