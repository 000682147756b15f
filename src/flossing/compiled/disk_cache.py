# Numba is untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedBaseClass=false, reportPrivateUsage=false, reportAttributeAccessIssue=false
"""Numba's cache of a function on disk, with files whose damage is noticed.

Numba trusts what it finds: a file that was cut short makes every later call fail, and machine code
with a wrong byte runs. Here every file carries a digest of itself. Files that do not agree with
theirs are removed, and what they held is compiled again.
"""

import hashlib
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from numba.core import caching

from flossing.errors import CompiledCodeWarning

_DIGEST_BYTES = hashlib.sha256().digest_size


class _DamagedError(Exception):
    """A file is not what was written."""


class _CheckedFiles(caching.IndexDataCacheFile):
    """The index and the data files of a function, each behind a digest of its contents."""

    def _load_index(self) -> Any:
        try:
            stamp, overloads = self._read(self._index_path)
        except FileNotFoundError:
            return {}
        return overloads if stamp == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: Any) -> None:
        self._write(self._index_path, ((self._version, self._source_stamp), overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        contents = Path(path).read_bytes()
        digest, data = contents[:_DIGEST_BYTES], contents[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise _DamagedError
        return pickle.loads(data)

    def _write(self, path: str, contents: Any) -> None:
        data = self._dump(contents)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)

    def remove(self) -> None:
        """Remove the index, without which its data files are not found but overwritten."""
        with suppress(OSError):
            Path(self._index_path).unlink()


class _Files(caching.FunctionCache):
    """A function's cache where there is a folder for one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        files = self._cache_file
        self._cache_file = _CheckedFiles(
            self._cache_path, self._impl.filename_base, files._source_stamp
        )

    def remove(self) -> None:
        """Remove what the cache holds of the function."""
        self._cache_file.remove()


class DiskCache(caching._Cache):
    """What a compiled function asks for its machine code, from its first call on.

    To find a folder, Numba tries which ones it can write to: not when the package is imported.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def _files(self) -> Any:
        try:
            return _Files(self._function)
        except (RuntimeError, OSError):
            # "cannot cache function": no folder can be written to, or the source is not a file.
            return caching.NullCache()

    @property
    def cache_path(self) -> Any:
        """The folder; `None` where there is no place for one."""
        return self._files.cache_path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for a signature; `None` where it is missing or damaged."""
        if self.cache_path is None:
            warn_once(
                "compiled code cannot be kept on disk, for Numba finds no place for its cache (no "
                "folder that can be written to, or no source files): every process compiles for "
                "about half a minute at its first measurement; set the environment variable "
                "NUMBA_CACHE_DIR to a folder that can be written to, or choose backend='torch'"
            )
        try:
            return self._files.load_overload(sig, target_context)
        except OSError:
            # Not readable: as if it were not there.
            return None
        # What is not a pickle of what it should be, if its digest is right, comes from elsewhere.
        except Exception:
            self._files.remove()
            warn_once(
                f"compiled code in {self.cache_path} is damaged: it was removed and is compiled "
                "again, which takes up to half a minute"
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature where that is possible."""
        try:
            self._files.save_overload(sig, data)
        except _DamagedError:
            self._files.remove()
            self._files.save_overload(sig, data)
        except OSError as error:
            warn_once(
                f"compiled code cannot be kept in {self.cache_path} ({error}), so every process "
                "compiles it anew; set NUMBA_CACHE_DIR to a folder with room that can be written to"
            )

    def enable(self) -> None:
        """Do nothing: it is in use always."""

    def disable(self) -> None:
        """Do nothing: it is in use always."""

    def flush(self) -> None:
        """Remove what the cache holds of the function."""
        self._files.flush()


def warn_once(text: str) -> None:
    """Give a warning of compiled code, each one once in a process."""
    if text not in _SAID:
        _SAID.add(text)
        warnings.warn(text, CompiledCodeWarning, stacklevel=2)


_SAID: set[str] = set()
