"""A job of an experiment: one command with a folder of its own, which holds its results, its output and its state.

The output is in `console.txt`, the state in `job.json`.
"""

import hashlib
import itertools
import json
import logging
import math
import shlex
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds.engine.run.metrics import newest_iteration, read_scores
from clouds.engine.run.output_folder import is_in_use
from clouds.errors import UserError
from clouds.utils.atomic import append_file, make_folder, write_atomically, writing
from clouds.utils.folders import image_files
from clouds.utils.hashing import model_digest
from clouds.utils.json_files import parse_json
from clouds.utils.locks import lock_open_file
from clouds.utils.values import is_number

logger = logging.getLogger(__name__)

_STATE = "job.json"
_CONSOLE = "console.txt"


@dataclass(frozen=True)
class Job:
    """A command and the folder that it fills.

    Attributes:
        name: unique name.
        command: program and its arguments.
        folder: folder of its results; the arguments name it as well.
        needs: names of the jobs that must be done before.
        steps: amount of work, in iterations or images.
        inputs: digest of everything else that its results depend on: settings and files that the command only names.
        is_evaluated: whether the command is a training that is done only with an evaluation at the end of its
            `metrics.json`; without, the command is given again.
        started: command that is given in place of `command`, with flags that do not change the results; default
            `command`.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()
    steps: int = 1
    inputs: str = ""
    is_evaluated: bool = False
    started: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether this command has succeeded in this folder with these inputs."""
        if not self._owns_folder or math.isnan(self.seconds):
            return False
        return not self.is_evaluated or bool(read_scores(self.folder / "metrics.json"))

    @property
    def seconds(self) -> float:
        """Duration of the last run that succeeded; NaN if there is none."""
        seconds: Any = self._record().get("seconds")
        return float(seconds) if is_number(seconds) and seconds >= 0 else math.nan

    def begin(self) -> None:
        """Take the folder; one that another command or other inputs have filled is renamed to `<folder>.<n>`.

        A folder with a damaged `job.json` is renamed, too: the command that has filled it is unknown.

        Raises:
            WriteError: the folder cannot be renamed, created or written.
        """
        if (self.folder / _STATE).exists() and not self._owns_folder:
            aside = next(path for n in itertools.count(1) if not (path := Path(f"{self.folder}.{n}")).exists())
            logger.warning("%s is of another command or other inputs and becomes %s", self.folder, aside)
            with writing(aside):
                self.folder.rename(aside)
        make_folder(self.folder)
        self._write(None)

    def finish(self, seconds: float) -> None:
        """Record that the job is done and how long it took."""
        self._write(round(seconds, 1))

    def steps_done(self) -> int:
        """Return the number of finished steps, read from the files in the folder: 0..steps."""
        if self.is_done:
            return self.steps
        images = self.folder / "images"
        done = newest_iteration(self.folder / "metrics.json")
        return min(self.steps, done or len(image_files(images)))

    def start(self, environment: Mapping[str, str], working_folder: Path | None) -> subprocess.Popen[bytes]:
        """Take the folder and start the command, whose output goes to `console.txt`.

        Raises:
            UserError: the command cannot be started.
            WriteError: the folder cannot be used.
        """
        self.begin()
        with append_file(self.console) as console:
            # The command inherits the lock, so that it also lasts when this process is killed.
            if not lock_open_file(console):
                raise UserError(f"another process has begun it: wait for its end, see {self.console}")
            with writing(self.console):
                console.write(self._heading.encode(errors="replace"))
                console.flush()
            try:
                return subprocess.Popen(
                    self.started or self.command, stdout=console, stderr=subprocess.STDOUT, env=dict(environment),
                    cwd=working_folder,
                    start_new_session=True,  # it gets a signal once: from this process, and not from the terminal, too
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"it cannot be started: {error.filename} ({error.strerror}).") from error

    @property
    def is_elsewhere(self) -> bool:
        """Whether a command that another process has started is at work in the folder."""
        if self.console.is_file():
            with self.console.open("rb") as console:
                if not lock_open_file(console):
                    return True
        return is_in_use(self.folder)

    def reason(self, exit_code: int) -> str:
        """Return why the command failed: the signal that ended it, and the last line that it printed."""
        text = self.console.read_text(encoding="utf-8", errors="replace")
        output = text.rpartition(self._heading)[2].strip()
        said = output.splitlines()[-1].removeprefix("error: ").rstrip(".") if output else "it printed nothing"
        if exit_code < 0:
            said = f"it was ended by {_signal_name(-exit_code)}, and at last: {said}"
        return f"{said} ({self.console} has it all)"

    @property
    def console(self) -> Path:
        """The file with everything that the command prints."""
        return self.folder / _CONSOLE

    @property
    def _heading(self) -> str:
        return f"$ {shlex.join(self.started or self.command)}\n"

    @property
    def _owns_folder(self) -> bool:
        record = self._record()
        return (record.get("command"), record.get("inputs")) == (list(self.command), self.inputs)

    def _record(self) -> dict[str, Any]:
        """The content of `job.json`; empty if there is none or it is damaged."""
        try:
            content = parse_json((self.folder / _STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, seconds: float | None) -> None:
        record = {"command": list(self.command), "inputs": self.inputs, "seconds": seconds}
        write_atomically(self.folder / _STATE, json.dumps(record))


def digest(*parts: str | Path) -> str:
    """Return a short digest of texts, files and folders of models (`model_digest`): 16 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(model_digest(part).encode() if part.is_dir() else part.read_bytes())
    return found.hexdigest()[:16]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
