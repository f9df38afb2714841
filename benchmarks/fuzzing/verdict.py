"""Verdict on an input: accepted, refused in one sentence, or a failure."""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clouds
from clouds.errors import UserError, WriteError, machine_error
from fuzzing.guard import GUARD

LONGEST = 500
"""Characters of a message."""
_CODE = Path(clouds.__file__).resolve().parent


@dataclass(frozen=True)
class Verdict:
    """Result of one input.

    Attributes:
        what: "accepted" or "refused", both right; or the kind of failure: "traceback", "message", "outside", "hang",
            "crash".
        detail: message of the refusal or of the failure.
        place: groups failures of one cause: the exception and the place in the code.
    """

    what: str
    detail: str = ""
    place: str = ""

    @property
    def is_right(self) -> bool:
        return self.what in ("accepted", "refused")


def judge(read: Callable[[], None], folder: Path, names: re.Pattern[str]) -> Verdict:
    """Read an input and judge what happens.

    Args:
        read: reads the input with the functions of CLOUDS.
        folder: folder of the input, the only one that may be written to.
        names: config keys, variables or flags that a message may name instead of a file in `folder`.
    """
    with GUARD.watch(folder):
        try:
            read()
            verdict = Verdict("accepted")
        except UserError as error:
            verdict = _judge_message(str(error), folder, names)
        except WriteError as error:  # a command prints it as a sentence, too
            verdict = _judge_message(str(machine_error(error)), folder, names)
        except SystemExit as error:  # argparse
            verdict = Verdict("refused") if error.code == 2 else Verdict("traceback", f"exit code {error.code}")
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (any exception is the finding)
            verdict = Verdict("traceback", "".join(traceback.format_exception(error))[-6000:], _place(error))
    if GUARD.seen:
        return Verdict("outside", "\n".join(GUARD.seen[:10]), GUARD.seen[0].partition(" ")[0])
    return verdict


def _judge_message(message: str, folder: Path, names: re.Pattern[str]) -> Verdict:
    faults = []
    if len(message) > LONGEST:
        faults.append(f"it has {len(message)} characters")
    if not message.isprintable():
        faults.append("it has control characters or line breaks")
    if not message.strip():
        faults.append("it is empty")
    if (
        str(folder) not in message
        and not names.search(message)
        and not any(path.name in message for path in folder.rglob("*"))
    ):
        faults.append("it names no file and no key")
    if faults:
        return Verdict("message", f"{', '.join(faults)}: {message!r:.700}", f"{faults[0]}: {_shape(message, folder)}")
    return Verdict("refused", message)


def _shape(message: str, folder: Path) -> str:
    """Return the beginning of a message without what differs between inputs."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "_", message.replace(str(folder), "."))[:60]


def _place(error: BaseException) -> str:
    """Return the exception and the innermost line of CLOUDS that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _CODE in Path(frame.filename).parents]
    where = f"{Path(frames[-1].filename).relative_to(_CODE.parent)}:{frames[-1].name}" if frames else "outside clouds"
    return f"{type(error).__name__} in {where}"
