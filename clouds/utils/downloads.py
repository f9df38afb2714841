"""Files that are given by a URL. Each URL is downloaded once, into a cache."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from clouds.errors import UserError
from clouds.utils.atomic import atomic_file, make_folder
from clouds.utils.file_kinds import HEAD, foreign_kind, is_video
from clouds.utils.hashing import write_sha256
from clouds.utils.paths import is_url, url_name, user_path

logger = logging.getLogger(__name__)

_TIMEOUT = 60.0  # seconds without an answer
_ZIP = b"PK"  # files of `torch.save` are ZIP archives
_AVIF = b"ftypavi"  # after four bytes; an image that Pillow reads where it is built with this format


def local_file(path: str, kind: str = "weight file") -> Path:
    """Return the local path of a file that is given by a path or a URL; a URL is downloaded unless it is in the cache.

    The cache is the folder `$FVCORE_CACHE`, by default `~/.torch/iopath_cache`. The name of a file in it contains the
    digest of the whole URL: two hosts or two queries never share a file, and no URL leads out of the folder.

    Args:
        path: local path, in which `~` is expanded, or URL.
        kind: "weight file", "image" or "video".

    Raises:
        UserError: the file cannot be downloaded or written, or is a web page or a text instead of a file of
            this kind.
    """
    if not is_url(path):
        return user_path(path)
    folder = user_path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache")
    target = folder / _cache_name(path)
    try:
        make_folder(folder)
        with FileLock(f"{target}.lock"):
            if not target.is_file():
                _download(path, target, kind)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"Cannot download {path}: the server answers {error.code} ({error.reason}); check the URL, or download the "
            "file by other means and give its path."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"Cannot download {path} ({reason}): check the URL and the network, or download the file by other means "
            "and give its path."
        ) from error
    except OSError as error:
        raise UserError(
            f"Cannot write the download of {path} to {folder} ({error.strerror or error}): make room, or set "
            "FVCORE_CACHE to another folder."
        ) from error
    return target


def _cache_name(url: str) -> str:
    """Return the name of a URL's file: a digest of the URL, and the readable part of its own name."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:32]
    return f"{digest}_{re.sub('[^A-Za-z0-9._-]', '_', url_name(url))[-80:]}"


def _download(url: str, target: Path, kind: str) -> None:
    logger.info(f"Downloading {url}")
    with atomic_file(target) as file:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            shutil.copyfileobj(answer, file)
            announced = answer.headers.get("Content-Length", "")
        size = file.tell()
        if announced.isdecimal() and size != int(announced):
            raise http.client.HTTPException(f"the connection ended after {size:,} of {int(announced):,} bytes")
        file.seek(0)
        head = file.read(HEAD)
        is_known = {
            "weight file": head.startswith(_ZIP),
            "image": head[4:].startswith(_AVIF),
            "video": is_video(head),
        }[kind]
        if not is_known and (found := foreign_kind(head)) is not None:
            raise UserError(
                f"{url} is {found.name} instead of {'an' if kind == 'image' else 'a'} {kind}: check the URL, or "
                "download the file by other means and give its path."
            )
    if not head.startswith(_ZIP):  # a ZIP archive has checksums of its own
        write_sha256(target)
    logger.info(f"Saved {size:,} bytes to {target}")
