"""Generate an unlabelled set of images, see ``python generate_txt_im.py --help``."""

import sys

try:
    from clouds.commands.generate import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: install CLOUDS and its dependencies with: pip install -r requirements.txt -e .")

if __name__ == "__main__":
    sys.exit(main())
