"""The one kind of error a person is meant to read, and what other errors say in one line."""

import errno
import os


class MocoError(Exception):
    """A problem that the reader can correct.

    Its text is one line that names the file or setting, the value found there and the remedy.
    Command lines print it without a traceback and exit with `exit_code`.
    """

    exit_code = 1


class Interrupted(MocoError):
    """Work stopped on request (SIGINT or SIGTERM) after saving what it had.

    The same command resumes from there.
    """

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Give the first line of an error's text; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "your quota is used up; free some space and run the same command again",
    errno.EROFS: "nothing can be written there; work in a folder of a writable file system",
    errno.EACCES: "give yourself the permission (`ls -ld` shows it), or work in another folder",
    errno.EPERM: "give yourself the permission (`ls -ld` and `lsattr -d` show it), or work in another folder",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`)",
    errno.ENFILE: "this machine has too many files open; end other programs",
    errno.EIO: "the disk or its connection fails; see `dmesg`",
    errno.ESTALE: "the network file system has lost it; run the same command again",
    errno.ENOMEM: "end other programs, or lower `processes` and `num_workers` in machine.yaml",
    errno.ENOENT: "make it, or see that no other program removes it",
    errno.ENOTDIR: "a file is where a folder is expected; remove or rename it",
    errno.EISDIR: "a folder is where a file is expected; remove or rename it",
    errno.EEXIST: "remove or rename it",
    errno.ENAMETOOLONG: "work in a folder with a shorter path",
    errno.ELOOP: "its symbolic links lead in a circle; remove one",
    errno.EFBIG: "larger files are not allowed here; raise the limit (`ulimit -f unlimited`)",
    errno.EAGAIN: "this user may start no more processes; end some, or raise the limit (`ulimit -u`)",
}


def os_error_in_one_line(error: OSError) -> str | None:
    """Say what the operating system refused, where, and what to do; None: that is not known."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    place = error.filename2 or error.filename
    where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes | os.PathLike) else ""
    return f"{where}{error.strerror}; {remedy}"
