"""Every command and every Python snippet in the documents works."""

import re
import runpy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

import clouds
from clouds.experiments.jobs import Job
from tests.snippets import ROOT, Block, blocks, commands, inside, parse, run, without_launchers, write_place

# Commands, or programs, that a test cannot run, with the reason. Commands of ours are parsed with their own parser.
NOT_RUN = {
    "make demo": "15 minutes",
    "make test": "these tests",
    "pip": "changes the environment",
    "clouds serve --model output/gta/warmup --examples photos/": "serves until it is stopped, see tests/web/browser",
    "clouds weights mobile_sam": "downloads",
    "clouds generate --model stabilityai/sdxl-turbo --folder sd_turbo --input prompt_llama70b.txt "
    "--scheduler turbo --steps 1 --guidance 0 --height 512 --width 512": "downloads",
    "clouds prompts --model meta-llama/Llama-2-70b-chat-hf --output prompts.txt": "a model of 140 GB",
    "clouds submit --config-file configs/warmup/gta/train_gta.yaml --benchmark cityscapes "
    "--output submission MODEL.WEIGHTS output/gta/warmup/model_final.pth": "needs all images of the test split",
    "bash output/jobs/submit.sh": "SLURM",
    "scontrol show hostnames node[1-2]": "SLURM",
    "head -n 1": "a program of the system",
    "srun torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-id 7 --rdzv-endpoint :29500 -m clouds "
    "train --config-file configs/warmup/gta/train_gta.yaml": "SLURM",
}
# Documents whose commands run; the README comes first, because its commands make what the others need.
RUN = ("README.md", "GETTING_STARTED.md")
# Pages of the site whose commands run, but for those that README and GETTING_STARTED have.
PAGES = ("docs/index.md", "docs/start.md", "docs/stages.md", "docs/your_sam.md", "docs/your_generator.md")
# Documents whose commands are only parsed.
PARSED = ("INSTALL.md", "TROUBLESHOOTING.md", "datasets/README.md", "docs/published.md", "docs/benchmarks.md")
# Inline code that begins like a command and has no placeholder.
INLINE = re.compile(r"(?<!`)`((?:python (?!-)[^`<…]*\.py\b|clouds )[^`<…]*)`(?!`)")
OURS = re.compile(r"(?:python|torchrun|srun) .*(?:\.py|-m clouds)|clouds ")


@pytest.fixture(scope="session")
def after_readme(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder in which every command of the README has run, in their order, and the cache of the hub."""
    root = tmp_path_factory.mktemp("documents")
    place, hub = root / "clouds", root / "hub"
    write_place(place, hub)
    with inside(place, hub):
        for block in blocks("README.md", "sh", "python"):
            run_block(block)
        # The published code stores the frozen tower, too.
        torch.save({"model": clouds.load("output/gta/warmup").network.state_dict()}, "weights/published.pth")
    return place, hub


@pytest.fixture
def place(after_readme: tuple[Path, Path], tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder as the current one."""
    template, hub = after_readme
    copy = Path(shutil.copytree(template, tmp_path / "clouds", symlinks=True))
    with inside(copy, hub):
        yield copy


def run_block(block: Block) -> None:
    """Run a block in the current folder: its commands, or its Python code as a script."""
    if block.language == "sh":
        for words in commands(block.text):
            if can_run(words):
                run(words)
    elif block.file_name:
        Path(block.file_name).write_text(block.text)
    else:
        Path("snippet.py").write_text(block.text)
        runpy.run_path("snippet.py", run_name="__main__")


def can_run(words: Sequence[str]) -> bool:
    return not NOT_RUN.keys() & {words[0], " ".join(words)}


def test_the_readme(after_readme: tuple[Path, Path]) -> None:
    place, _ = after_readme
    for name in ("output/gta/warmup/model_final.pth", "output/gta/joint/model_final.pth", "out/street_overlay.jpg"):
        assert (place / name).is_file(), name
    assert "Pseudo-labels: " in (place / "output/gta/joint/log.txt").read_text()
    assert len(list((place / "data/stable_diffusion/sd_llama70b_v2/images").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("document", PAGES)
def test_pages(document: str, place: Path) -> None:
    """The commands of a page run one after the other, each once."""
    done = {" ".join(alone(words)) for name in RUN for words in printed(name)}
    (place / "datasets").symlink_to("data")
    write_files(document, place)
    for block in blocks(document, "sh", "python"):
        if block.language == "python":
            run_block(block)
        for words in printed_in(block):
            if can_run(words) and (command := " ".join(alone(words))) not in done:
                run(words)
                done.add(command)


def printed(document: str) -> list[list[str]]:
    return [words for block in blocks(document, "sh") for words in printed_in(block)]


def printed_in(block: Block) -> list[list[str]]:
    return commands(block.text) if block.language == "sh" else []


def alone(words: Sequence[str]) -> list[str]:
    """The first start of a command as one process gets it: without launchers and the number of processes."""
    words = [word for word in without_launchers(words) if word != "--resume"]
    if "--num-gpus" in words:
        at = words.index("--num-gpus")
        del words[at : at + 2]
    return words


EXPERIMENT = ("clouds experiment", "run_experiment(")  # blocks that start trainings as processes


def is_experiment(block: Block) -> bool:
    return any(words in block.text for words in EXPERIMENT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [b for b in blocks("GETTING_STARTED.md", "sh", "python") if not is_experiment(b)], ids=str
)
def test_getting_started(block: Block, place: Path) -> None:
    write_files(block.document, place)
    run_block(block)


def write_files(document: str, place: Path) -> None:
    for each in blocks(document, "python", "yaml"):
        if each.file_name:
            (place / each.file_name).write_text(each.text)


@pytest.mark.slow
def test_the_experiment(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan of GETTING_STARTED is run by its commands and in Python.

    Its jobs are trained in this process, since starting one takes longer than the training. The third seed and the
    second experiment get copies of the folders that are trained.
    """

    def run_here(jobs: Sequence[Job], **_: object) -> None:
        for job in jobs:
            if not job.is_done:
                trained = place / "output/seeds" / job.folder.parent.name / job.folder.name.replace("3", "2")
                job.begin()
                if job.folder.resolve() == trained:
                    run(job.command[2:])  # python -m clouds
                else:
                    shutil.copytree(trained, job.folder, dirs_exist_ok=True, ignore=lambda *_: ["job.json"])
                job.finish(1.0)

    monkeypatch.setattr("clouds.experiments.run.run_jobs", run_here)
    write_files("GETTING_STARTED.md", place)
    for block in blocks("GETTING_STARTED.md", "sh", "python"):
        if is_experiment(block):
            run_block(block)
    assert "joint training - warm-up: " in capsys.readouterr().out
    weights = {
        path.parent.relative_to(place / "output").as_posix() for path in place.glob("output/*/*/seed?/*_final.pth")
    }
    assert {f"seeds/{row}/seed{seed}" for row in ("warmup", "joint") for seed in (1, 2, 3)} <= weights
    assert {f"try/warmup/seed{seed}" for seed in (1, 2)} <= weights
    assert (place / "output/seeds/report.html").is_file()
    assert (place / "output/jobs/submit.sh").is_file()


@pytest.mark.parametrize("document", [*RUN, *PAGES, *PARSED])
def test_commands_are_understood(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those within a line, and those that cannot run."""
    monkeypatch.chdir(ROOT)
    found = [words for block in blocks(document, "sh") for words in commands(block.text)]
    inline = INLINE.findall((ROOT / document).read_text(encoding="utf-8"))
    found += [words for text in inline for words in commands(text)]
    own = {block.file_name for block in blocks(document, "python")}
    for words in found:
        if OURS.match(" ".join(words)) and not own.intersection(words) and words[1].split("/")[0] not in OTHER:
            parse(words)


# Folders whose scripts have no parser in `clouds.commands`.
OTHER = {"benchmarks", "projects"}


def test_no_reason_without_a_command() -> None:
    found = {name for document in (*RUN, *PAGES) for words in printed(document) for name in (words[0], " ".join(words))}
    assert not NOT_RUN.keys() - found


def test_the_job_requeues_itself() -> None:
    """The job of GETTING_STARTED goes back into the queue only if its training was stopped by a signal."""
    (job,) = [block.text for block in blocks("GETTING_STARTED.md", "sh") if "scontrol requeue" in block.text]
    ends = {code: commands(job, code)[1:] for code in (0, 2, 75)}
    assert ends == {0: [], 2: [], 75: [["scontrol", "requeue", "7"]]}


@pytest.mark.parametrize("document", [*RUN, *PAGES, *PARSED])
def test_no_block_is_overlooked(document: str) -> None:
    """Commands are in blocks that are marked as `sh`."""
    assert {block.language for block in blocks(document)} <= {"sh", "python", "yaml", "bibtex", ""}
    assert not [block for block in blocks(document, "") if re.search("^(?:python|clouds|pip|make) ", block.text, re.M)]


@pytest.mark.parametrize("block", [b for d in (*RUN, *PAGES, *PARSED) for b in blocks(d, "python")], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")
