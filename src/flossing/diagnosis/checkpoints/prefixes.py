"""Selection among the prefixes of parameter names in a checkpoint."""

from collections.abc import Iterable


def matching_prefixes(present: Iterable[str], wanted: str | None) -> list[str]:
    """Return the prefix that equals the wanted one, or else those that end in it.

    Args:
        present: Prefixes in the checkpoint; each is empty or ends in a dot.
        wanted: Prefix given by the user, with or without its last dot; `None` for any.

    Example:
        >>> present = ["state_dict.model.rnn.", "state_dict.other_rnn."]
        >>> matching_prefixes(present, "rnn")
        ['state_dict.model.rnn.']
        >>> matching_prefixes(present, None) == present
        True
    """
    present = list(present)
    if wanted is None:
        return present
    dotted = wanted if wanted.endswith(".") or not wanted else f"{wanted}."
    if dotted in present or not dotted:
        return [dotted] if dotted in present else []
    return [prefix for prefix in present if prefix.endswith(f".{dotted}")]
