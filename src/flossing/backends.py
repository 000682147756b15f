"""The backends by name."""

from flossing.errors import InvalidOptionError
from flossing.growth import Backend, reference_growth, torch_growth
from flossing.growth_compiled import compiled_growth

BACKENDS: dict[str, Backend] = {
    "auto": compiled_growth,
    "compiled": compiled_growth,
    "torch": torch_growth,
    "reference": reference_growth,
}


def backend_named(backend: str | Backend) -> Backend:
    """Return a backend by name, or the callable itself.

    Raises:
        InvalidOptionError: no backend has that name; the message lists those there are.
    """
    if callable(backend):
        return backend
    if backend not in BACKENDS:
        raise InvalidOptionError(
            f"backend must be one of {', '.join(map(repr, BACKENDS))} or a callable like "
            f"flossing.growth.torch_growth, not {backend!r}"
        )
    return BACKENDS[backend]
