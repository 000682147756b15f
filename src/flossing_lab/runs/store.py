"""A folder of runs: finished runs are found again, damaged files are set aside."""

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from flossing.errors import UnreadableFileError
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.files import read_run, set_aside, write_run, write_whole
from flossing_lab.runs.records import Run

SUFFIX = ".jsonl"

_DIGEST = re.compile(r"-([0-9a-f]{16})$")


@dataclass(frozen=True)
class Store:
    """Runs in a folder, each in a file that is named after its configuration.

    Any number of processes may write to the same folder: a file appears whole or not at all, and
    the same configuration gives the same records, up to rounding.

    Attributes:
        folder: of the runs; created when the first is written.
    """

    folder: Path

    def path(self, configuration: Configuration) -> Path:
        """Return the file of a run; its name ends in the configuration's digest."""
        task = configuration.document()["task"]["name"]
        flossed = "unflossed" if configuration.flossing is None else "flossed"
        shown = f"{task}-{configuration.architecture.cell}-{flossed}-seed-{configuration.seed}"
        return self.folder / f"{shown}-{configuration.digest}{SUFFIX}"

    def write(self, run: Run) -> Path:
        """Write a run and return its file."""
        path = self.path(run.configuration)
        write_run(path, run)
        return path

    def finished(self, configuration: Configuration) -> Run | None:
        """Return the run of a configuration, or `None` if it is missing or damaged.

        A file that is damaged, or holds another configuration than its name says, is set aside
        under a name that ends in ".damaged", with a `DamagedRunWarning`.
        """
        path = self.path(configuration)
        if not path.exists():
            return None
        try:
            # The one that was asked for: in the file's, tuples of a schedule have become lists.
            return replace(_trusted(path), configuration=configuration)
        except UnreadableFileError as error:
            set_aside(path, error)
            return None

    def tidy(self) -> None:
        """Remove the folder of unfinished runs if it is empty."""
        with contextlib.suppress(OSError):
            self.unfinished.rmdir()

    @property
    def unfinished(self) -> Path:
        """Folder of files that are needed only until a run is finished."""
        return self.folder / "unfinished"

    def runs(self) -> tuple[list[Run], list[UnreadableFileError]]:
        """Return all undamaged runs of the folder, and an error for each other file.

        The runs are sorted by task, architecture, whether they are flossed, and seed.

        Raises:
            UnreadableFileError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise UnreadableFileError(f"there is no folder {str(self.folder)!r}: check the path")
        runs: list[Run] = []
        refused: list[UnreadableFileError] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                runs.append(_trusted(path))
            except UnreadableFileError as error:
                refused.append(error)
            except OSError as error:
                refused.append(UnreadableFileError(f"{str(path)!r} cannot be read: {error}"))
        return sorted(runs, key=_order), refused


@dataclass(frozen=True)
class Group:
    """Configurations that are run together, and their files until they are finished.

    Attributes:
        store: where the runs are kept.
        configurations: of the group.
    """

    store: Store
    configurations: tuple[Configuration, ...]

    @property
    def checkpoint(self) -> Path:
        """File from which the group resumes if its process is killed."""
        return self._file("checkpoint")

    @property
    def progress(self) -> Path:
        """File with the phase of the group, the steps of it that are done, and their number."""
        return self._file("progress")

    @contextlib.contextmanager
    def claimed(self) -> Generator[None]:
        """Lock the group, after waiting for another process that runs it, and write its members.

        The operating system releases the lock of a process that ends, however it ends. From
        the members `interrupted_groups` knows to which group the checkpoint belongs.
        """
        self.store.unfinished.mkdir(parents=True, exist_ok=True)
        with FileLock(self._file("lock")):
            members = [configuration.digest for configuration in self.configurations]
            write_whole(self._file("members"), json.dumps(members).encode())
            yield

    def clear(self) -> None:
        """Remove all files of the group but its runs."""
        for kind in ("checkpoint", "members", "progress", "lock"):
            # Windows refuses to remove a file that another process has open; it may stay.
            with contextlib.suppress(PermissionError):
                self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: str) -> Path:
        members = "\n".join(each.digest for each in self.configurations)
        return self.store.unfinished / f"{hashlib.sha256(members.encode()).hexdigest()[:16]}.{kind}"


def interrupted_groups(store: Store, configurations: Sequence[Configuration]) -> list[Group]:
    """Return the groups that have a checkpoint and whose members are all among configurations."""
    missing = {configuration.digest: configuration for configuration in configurations}
    groups: list[Group] = []
    for path in sorted(store.unfinished.glob("*.members")):
        members = _members(path)
        if members and all(digest in missing for digest in members):
            group = Group(store, tuple(missing[digest] for digest in members))
            if group.checkpoint.exists():
                groups.append(group)
                for digest in members:
                    missing.pop(digest, None)
    return groups


def _order(run: Run) -> tuple[Any, ...]:
    configuration = run.configuration
    task = tuple(configuration.document()["task"].values())
    # Unset values come first, for `None` cannot be compared with numbers.
    values = astuple(configuration.architecture)
    architecture = tuple((value is not None, 0 if value is None else value) for value in values)
    return task, architecture, configuration.flossing is not None, configuration.seed


def _members(path: Path) -> list[str]:
    try:
        members: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    return [str(each) for each in cast("list[Any]", members)] if isinstance(members, list) else []


def _trusted(path: Path) -> Run:
    run = read_run(path)
    named = _DIGEST.search(path.stem)
    if named is None or named[1] != run.configuration.digest:
        raise UnreadableFileError(
            f"{str(path)!r} holds a run whose configuration has the digest "
            f"{run.configuration.digest}, which is not what its name ends in: it was renamed or "
            "copied; run it again"
        )
    return run
