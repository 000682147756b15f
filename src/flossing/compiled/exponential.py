# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportCallIssue=false
"""e^x and e^x − 1 for x ≤ 0, and the nonlinearities of recurrent cells made of them.

Straight lines without calls and branches, so that a compiler can put a loop of them into vector
instructions, and accurate to a few roundings whatever the size of x. That depends on the order of
the operations, so they must not be compiled with the liberties that the other loops take.
"""

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from flossing.compiled.compiler import exact_part


class _Format(NamedTuple):
    """What e^x needs to know of a floating point type.

    Attributes:
        integer: the integer type of the same size.
        mantissa: bits of the mantissa.
        bias: of the exponent.
        lowest: an x whose exponential underflows to zero.
        logarithms: ln 2 in two parts, the first with zeros at its end.
        degree: of the polynomial.
    """

    integer: Any
    mantissa: int
    bias: int
    lowest: float
    logarithms: tuple[float, float]
    degree: int


def _split_logarithm(bits: int) -> tuple[float, float]:
    high = math.floor(math.log(2) * 2**bits) / 2**bits
    # The digits of ln 2 after those of a double.
    return high, (math.log(2) - high) + 2.3190468138462996e-17


_FORMATS = {
    types.float32: _Format(ir.IntType(32), 23, 127, -110.0, _split_logarithm(12), 7),
    types.float64: _Format(ir.IntType(64), 52, 1023, -760.0, _split_logarithm(40), 13),
}


@intrinsic  # pyright: ignore[reportUntypedFunctionDecorator]
def exponential(typing_context: Any, x: Any) -> Any:  # noqa: ARG001 - Numba passes it
    """Return e^x and e^x − 1 for x ≤ 0.

    With x = κ ln 2 + r: e^x = 2^κ (1 + p(r)), with the Taylor polynomial p of e^r − 1.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_value_type(x)
        exact = _Writer(builder, element, _FORMATS[x])
        values = exact.exponential(arguments[0])
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(x, 2)(x), generate


class _Writer:
    """Writes the instructions; none may be reordered, which their precision depends on."""

    def __init__(self, builder: Any, element: Any, form: _Format) -> None:
        self.builder = builder
        self.element = element
        self.form = form

    def number(self, value: float) -> Any:
        """Return a constant."""
        return ir.Constant(self.element, value)

    def integer(self, value: int) -> Any:
        """Return an integer constant of the same size."""
        return ir.Constant(self.form.integer, value)

    def exponential(self, x: Any) -> tuple[Any, Any]:
        """Write e^x and e^x − 1."""
        builder, number = self.builder, self.number
        below = builder.fcmp_ordered("<", x, number(self.form.lowest))
        x = builder.select(below, number(self.form.lowest), x)
        whole, power = self._nearest(builder.fmul(x, number(1 / math.log(2))))
        for logarithm in self.form.logarithms:
            x = builder.fsub(x, builder.fmul(whole, number(logarithm)))
        excess = self._polynomial(x)
        # In two factors: where e^x is subnormal or zero, neither of them is.
        half = builder.ashr(power, self.integer(1))
        first, second = self._power_of_two(half), self._power_of_two(builder.sub(power, half))
        value = builder.fadd(number(1.0), excess)
        value = builder.fmul(builder.fmul(value, first), second)
        scale = builder.fmul(first, second)
        change = builder.fadd(builder.fmul(excess, scale), builder.fsub(scale, number(1.0)))
        return value, change

    def _nearest(self, x: Any) -> tuple[Any, Any]:
        """Write the nearest integer, as both types."""
        # At this size the unit in the last place is one.
        large = 1.5 * 2.0**self.form.mantissa
        shifted = self.builder.fadd(x, self.number(large))
        whole = self.builder.fsub(shifted, self.number(large))
        bits = [self.builder.bitcast(v, self.form.integer) for v in (shifted, self.number(large))]
        return whole, self.builder.sub(*bits)

    def _polynomial(self, x: Any) -> Any:
        total = self.number(1 / math.factorial(self.form.degree))
        for power in range(self.form.degree - 1, 0, -1):
            coefficient = self.number(1 / math.factorial(power))
            total = self.builder.fadd(self.builder.fmul(total, x), coefficient)
        return self.builder.fmul(total, x)

    def _power_of_two(self, power: Any) -> Any:
        biased = self.builder.add(power, self.integer(self.form.bias))
        shifted = self.builder.shl(biased, self.integer(self.form.mantissa))
        return self.builder.bitcast(shifted, self.element)


@exact_part
def tanh(x: Any, one: Any) -> Any:
    """Return tanh x and its slope 1/cosh² x; `one` is 1 in the type of x."""
    value, change = exponential(-(abs(x) + abs(x)))
    scale = one / (one + value)
    size = -change * scale
    return size if x >= 0 else -size, (scale + scale) * (scale + scale) * value


@exact_part
def sigmoid(x: Any, one: Any) -> Any:
    """Return σ(x), σ(−x), and the slope of σ, their product; `one` is 1 in the type of x."""
    value, _ = exponential(-abs(x))
    larger = one / (one + value)
    smaller = value * larger
    slope = larger * smaller
    return (larger, smaller, slope) if x >= 0 else (smaller, larger, slope)
