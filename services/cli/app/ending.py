"""How a command ends: an error of ours is one line on standard error, and an exit code; what an output cannot take."""

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common.errors import Corrupt, QigError, Rejected, Unavailable

EXIT_FAILED: Final = 1  # a check or a gate failed: the command did its work, and the news is bad
EXIT_USAGE: Final = 2  # an argument, a setting or some data is wrong
EXIT_UNAVAILABLE: Final = 3  # something is not there: a broker, a port, a file, room on the disk
EXIT_BUG: Final = 4
EXIT_CORRUPT: Final = 70
EXIT_INTERRUPTED: Final = 130
EXIT_UNREAD: Final = 141  # 128 + SIGPIPE: what a shell says of a program that ends by it, as most do
EXIT_CODES: Final[dict[int, str]] = {
    0: "done",
    EXIT_FAILED: "a check or a gate failed; the output says which",
    EXIT_USAGE: "an argument, a setting or some data is wrong",
    EXIT_UNAVAILABLE: "something is not there (a broker, a port, a file, room on the disk); it may be later",
    EXIT_BUG: "a bug: `qig --debug ...` shows the traceback",
    EXIT_CORRUPT: "bytes are not what their digest or signature promised",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C; a demo by `qig stop` too)",
    EXIT_UNREAD: "whoever read the output went away before its end (`| head`)",
}
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: a disk, or a user's share of it, is full
_ESCAPED: Final = "qig-escaped"


def run(app: Callable[[], None]) -> None:
    """The command line, to its end. Raises SystemExit."""
    speak()
    try:
        _run(app)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (BrokenPipeError, SystemExit) as end:
        if not isinstance(end, BrokenPipeError) and not isinstance(end.__context__, BrokenPipeError):
            raise
        # rich and typer end with 1 by it, which says of ours that a check failed; and what is left to write is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_UNREAD)


def _run(app: Callable[[], None]) -> None:
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what cannot be written is an error of this command, not of Python's end
    except BrokenPipeError:
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        told = _told(error)
        sys.stderr.write(f"error: {_line(told)}\n")
        sys.exit(exit_code(told))


def speak() -> None:
    """Have what an output's encoding lacks, as Latin-1 does Φ, escaped as JSON does: the same for a program, and
    readable for a person. One that is closed (`>&-`) is as if it went to /dev/null.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 -- until the process ends
    codecs.register_error(_ESCAPED, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _told(error: Exception) -> Exception:
    """A disk that is full is no bug, wherever it is met: the output may be a file on it. So is a folder that is not for
    this user.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = error.filename or "the output, or a file"
        return Unavailable("disk_full", f"cannot write {where}: {error.strerror}; make room there, and run it again")
    if isinstance(error, PermissionError) and error.filename:
        what = f"cannot use {error.filename}: {error.strerror}"
        return Unavailable("not_permitted", f"{what}; run it as whom it belongs to, or name another (--home)")
    return error


def exit_code(error: Exception) -> int:
    """The code that a command which raised `error` ends with."""
    if isinstance(error, Corrupt):
        return EXIT_CORRUPT
    if isinstance(error, Rejected):
        return EXIT_USAGE
    return EXIT_UNAVAILABLE if isinstance(error, QigError) else EXIT_BUG


def _line(error: Exception) -> str:
    if isinstance(error, QigError):
        return f"{error.message} ({error.code})"
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{what} (bug): run it again as `qig --debug ...` and report the traceback"
