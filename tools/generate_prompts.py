"""Let a chat model write prompts, see ``python tools/generate_prompts.py --help``."""

import sys

try:
    from clouds.commands.generate_prompts import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
