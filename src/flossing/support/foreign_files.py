"""Files that are something else than their name or the user says, recognised by their contents."""

from pathlib import Path

from flossing.errors import UnreadableFileError

_SAVE_ARRAYS = (
    "export the weights with numpy.savez('weights.npz', NAME=array, ...) where they were made, and "
    "pass that file (for an LSTM or GRU of Keras see flossing.keras_layer)"
)
_POINTER = (
    "a pointer of Git LFS, in place of the file itself: fetch that with git lfs pull, or download "
    "it again"
)

# By the first bytes: what the file is, and what to do.
_BEGINNINGS = {
    b"version https://git-lfs": _POINTER,
    b"version https://hawser": _POINTER,
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, as Keras and MATLAB 7.3 write: {_SAVE_ARRAYS}",
    b"GGUF": f"a GGUF file: {_SAVE_ARRAYS}",
    b"<!DOCTYPE": "a web page, perhaps of a failed download: download the file itself",
    b"<html": "a web page, perhaps of a failed download: download the file itself",
    b"\x1f\x8b": "compressed by gzip: unpack it with gunzip",
}
_ENDINGS = {
    ".h5": f"a file of Keras: {_SAVE_ARRAYS}",
    ".hdf5": f"a file of Keras: {_SAVE_ARRAYS}",
    ".keras": f"a file of Keras: {_SAVE_ARRAYS}",
    ".onnx": f"a file of ONNX: {_SAVE_ARRAYS}, from onnx.numpy_helper.to_array",
    ".pb": f"a file of TensorFlow: {_SAVE_ARRAYS}",
    ".index": f"a file of TensorFlow: {_SAVE_ARRAYS}",
    ".msgpack": f"a file of Flax: {_SAVE_ARRAYS}",
    ".pkl": (
        "a pickle, reading which runs code in it: save the weights with torch.save, numpy.savez or "
        "safetensors instead"
    ),
}
_ENDINGS[".pickle"] = _ENDINGS[".joblib"] = _ENDINGS[".pkl"]


def refuse_foreign(path: Path) -> None:
    """Refuse an empty file, and one of a kind that is known but not read, and say what to do.

    Raises:
        UnreadableFileError: the file is one of these.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.pt"
        ...     _ = path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
        ...     try:
        ...         refuse_foreign(path)
        ...     except UnreadableFileError as error:
        ...         "a pointer of Git LFS" in str(error)
        True
    """
    with path.open("rb") as file:
        beginning = file.read(32)
    if not beginning:
        raise UnreadableFileError(f"{str(path)!r} is empty (0 bytes): write or download it again")
    what = next((what for each, what in _BEGINNINGS.items() if beginning.startswith(each)), None)
    # The name tells only where the contents do not: torch.save takes any name.
    archive = beginning.startswith(b"PK") and path.suffix.lower() != ".keras"
    if what is None and not archive:
        what = _ENDINGS.get(path.suffix.lower())
    if what is not None:
        raise UnreadableFileError(f"{str(path)!r} is {what}")
