"""What a checkpoint does not say about its network, as described by the user."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flossing.diagnosis.checkpoints.rate_network import RateNetwork, rate_network_of
from flossing.errors import InvalidOptionError, UnreadableFileError
from flossing.support.checks import require_choice
from flossing.support.tensor_files import require_file

Kind: TypeAlias = Literal["RNN", "GRU", "LSTM"]
Nonlinearity: TypeAlias = Literal["tanh", "relu"]

KINDS: tuple[Kind, ...] = ("RNN", "GRU", "LSTM")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a network by the user; `None` for whatever is left open.

    Attributes:
        module: "RNN", "GRU" or "LSTM", which must agree with the shapes; or
            "package.module:factory", a function that returns the `nn.Module` to load the weights
            into. The factory is run.
        prefix: Prefix of the recurrent layer's parameter names, such as "model.rnn.".
        nonlinearity: "tanh" or "relu", for an RNN.
        arguments: Keyword arguments for the factory.
        rate_network: That the file's arrays are a rate network, and of which equation.

    Raises:
        InvalidOptionError: A field has an invalid value, there are `arguments` but no factory, or
            both a module and a rate network.

    Example:
        >>> Description(module="my_project.models:make_cell").factory
        'my_project.models:make_cell'
        >>> Description(module="GRU").factory is None
        True
    """

    module: str | None = None
    prefix: str | None = None
    nonlinearity: Nonlinearity | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rate_network: RateNetwork | None = None

    def __post_init__(self) -> None:
        if self.module is not None and self.factory is None:
            require_choice("module", self.module, (*KINDS, "package.module:factory"))
        require_choice("nonlinearity", self.nonlinearity, ("tanh", "relu", None))
        if self.arguments and self.factory is None:
            raise InvalidOptionError(
                f"arguments ({', '.join(self.arguments)}) are for a factory, but module is "
                f"{self.module!r}: pass module='package.module:factory', or omit the arguments"
            )

        if self.rate_network is not None and (self.module, self.prefix, self.nonlinearity) != (
            None,
            None,
            None,
        ):
            raise InvalidOptionError(
                "module, prefix and nonlinearity are for modules of PyTorch: omit them, and write "
                "the nonlinearity of a rate network among its settings"
            )

    @property
    def factory(self) -> str | None:
        """The name of the factory; `None` if `module` names none."""
        return self.module if self.module is not None and ":" in self.module else None


def read_description(path: Path) -> Description:
    """Read a description from a TOML file.

    The file has any of `module`, `prefix`, `nonlinearity` and a table `[arguments]`, or a table
    `[rate_network]` with fields of `RateNetwork`.

    Raises:
        UnreadableFileError: There is no such file, or it is not TOML.
        InvalidOptionError: It has an unknown key or an invalid value.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.toml"
        ...     _ = path.write_text('module = "RNN"' + chr(10) + 'nonlinearity = "relu"')
        ...     read_description(path).nonlinearity
        'relu'
    """
    require_file(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    # Of numbers with thousands of digits, and of thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(
            f'{str(path)!r} is not TOML ({error}): write lines such as module = "LSTM"'
        ) from error
    known = [each.name for each in fields(Description)]
    for name, value in content.items():
        require_choice(f"a key in {str(path)!r}", name, known)
        expected = dict if name in ("arguments", "rate_network") else str
        if not isinstance(value, expected):
            form = f"[{name}] as a table" if expected is dict else f'{name} = "..."'
            raise InvalidOptionError(
                f"{name} in {str(path)!r} is {value!r} ({type(value).__name__}): write {form}"
            )
    if content.get("nonlinearity") is not None:
        require_choice("nonlinearity", content["nonlinearity"], ("tanh", "relu"))
    if "rate_network" in content:
        content["rate_network"] = rate_network_of(content["rate_network"])
    return Description(**content)
