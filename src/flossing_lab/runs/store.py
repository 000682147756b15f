"""A folder of runs: what is finished is found again, what is not whole is not trusted."""

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, cast

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
    the same configuration gives the same records, to rounding.

    Attributes:
        folder: where they are; made when the first is written.

    Example:
        >>> import tempfile
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> configuration = Configuration(task=DelayedCopy(), architecture=Architecture())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Store(Path(folder)).finished(configuration) is None
        True
    """

    folder: Path

    def path(self, configuration: Configuration) -> Path:
        """The file of a run; its name ends in the configuration's digest."""
        task = configuration.document()["task"]["name"]
        flossed = "unflossed" if configuration.flossing is None else "flossed"
        shown = f"{task}-{configuration.architecture.cell}-{flossed}-seed-{configuration.seed}"
        return self.folder / f"{shown}-{configuration.digest}{SUFFIX}"

    def write(self, run: Run) -> Path:
        """Write a run and return its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(run.configuration)
        write_run(path, run)
        return path

    def finished(self, configuration: Configuration) -> Run | None:
        """Return the run of a configuration, or `None` if there is none that can be trusted.

        A file that is not whole, or holds another configuration than its name says, is set aside
        under a name that ends in ".damaged", with a `DamagedRunWarning`.
        """
        path = self.path(configuration)
        if not path.exists():
            return None
        try:
            # The digest has been compared: tuples of a schedule come back as lists.
            return replace(_trusted(path), configuration=configuration)
        except UnreadableFileError as error:
            set_aside(path, error)
            return None

    def tidy(self) -> None:
        """Remove the folder of what is unfinished if it is empty."""
        with contextlib.suppress(OSError):
            self.unfinished.rmdir()

    @property
    def unfinished(self) -> Path:
        """The folder of what is there only until a run is finished."""
        return self.folder / "unfinished"

    def runs(self) -> tuple[list[Run], list[UnreadableFileError]]:
        """Return all runs of the folder that can be trusted, and what is wrong with the others.

        The runs come by task, architecture, whether they are flossed, and seed.

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
        return sorted(runs, key=_order), refused


@dataclass(frozen=True)
class Group:
    """Configurations that are run together, and the files of theirs that are there meanwhile.

    Attributes:
        store: where the runs go.
        configurations: what is run together.
    """

    store: Store
    configurations: tuple[Configuration, ...]

    @property
    def checkpoint(self) -> Path:
        """Where the group stands, so that it can go on if its process is killed."""
        return self._file("checkpoint")

    @property
    def progress(self) -> Path:
        """How far the group has come, for whoever waits for it."""
        return self._file("progress")

    @contextlib.contextmanager
    def claimed(self) -> Generator[None]:
        """Keep other processes from running this group; wait for one that does.

        The system takes the claim back from a process that ends in whatever way. The members are
        written down beside the checkpoint, which fits no other group.

        Raises:
            ImportError: filelock is missing.
        """
        try:
            from filelock import FileLock
        except ImportError as error:
            raise ImportError(
                "folders of runs need filelock, which could not be imported; "
                'install it with: pip install "flossing[sweep]"'
            ) from error
        self.store.unfinished.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._file("lock"))
        with lock:
            members = [configuration.digest for configuration in self.configurations]
            write_whole(self._file("members"), json.dumps(members).encode())
            yield

    def clear(self) -> None:
        """Remove all files of the group but its runs."""
        for kind in ("checkpoint", "members", "progress", "lock"):
            # Some systems keep a file that is still open; nothing rests on its absence.
            with contextlib.suppress(PermissionError):
                self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: str) -> Path:
        members = "\n".join(each.digest for each in self.configurations)
        return self.store.unfinished / f"{hashlib.sha256(members.encode()).hexdigest()[:16]}.{kind}"


def interrupted_groups(store: Store, configurations: Sequence[Configuration]) -> list[Group]:
    """Return the groups that were begun and can go on from their checkpoint.

    Args:
        store: where they were begun.
        configurations: what is still to be run; groups with other members are left out.
    """
    missing = {configuration.digest: configuration for configuration in configurations}
    groups: list[Group] = []
    for path in sorted(store.unfinished.glob("*.members")):
        members = _members(path)
        if not members or not all(digest in missing for digest in members):
            continue
        group = Group(store, tuple(missing[digest] for digest in members))
        if group.checkpoint.exists():
            groups.append(group)
            for digest in members:
                missing.pop(digest, None)
    return groups


def _order(run: Run) -> tuple[Any, ...]:
    configuration = run.configuration
    task = tuple(configuration.document()["task"].values())
    # What is not set goes first: None does not compare with numbers.
    values = astuple(configuration.architecture)
    architecture = tuple((value is not None, 0 if value is None else value) for value in values)
    return task, architecture, configuration.flossing is not None, configuration.seed


def _members(path: Path) -> list[str]:
    try:
        members: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    if not isinstance(members, list):
        return []
    return [str(each) for each in cast("list[Any]", members)]


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
