# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportCallIssue=false
"""e^x and e^x − 1 for x ≤ 0, and tanh, the logistic function and their slopes made of them.

See docs/mathematics.md, Exponentials. There are neither calls nor branches, so that LLVM turns a
loop of them into vector instructions; `np.exp` in such a loop would be a call for every number.
"""

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from flossing.compiled.compiler import inlined_exactly


class _Format(NamedTuple):
    """What e^x needs to know of a floating point type.

    Attributes:
        integer: the integer type of the same size.
        mantissa: bits of the mantissa that are stored, without the leading one.
        bias: of the exponent.
        lowest: an x whose exponential underflows to zero.
        logarithms: ln 2 = L₁ + L₂, with zeros at the end of L₁.
        degree: of the polynomial.
    """

    integer: Any
    mantissa: int
    bias: int
    lowest: float
    logarithms: tuple[float, float]
    degree: int


# ln 2 less the double nearest to it.
_LN2_BEYOND_DOUBLE = 2.3190468138462996e-17


def _split_logarithm(bits: int) -> tuple[float, float]:
    """Return ln 2 as L₁ of so many bits and the rest L₂."""
    high = math.floor(math.log(2) * 2**bits) / 2**bits
    return high, (math.log(2) - high) + _LN2_BEYOND_DOUBLE


# lowest:     e^x must round to zero, so be less than half of the smallest subnormal number:
#             e^-110 = 2^-158.7 < 2^-150, e^-760 = 2^-1096.4 < 2^-1075.
# logarithms: κ L₁ must be exact, so the bits of κ and L₁ must fit into the mantissa together:
#             κ ≤ 159 has 8, and 8 + 12 ≤ 24; κ ≤ 1097 has 11, and 11 + 40 ≤ 53.
# degree d:   the first term left out, |r|^(d+1)/(d+1)! with |r| ≤ ln(2)/2, must be small beside a
#             rounding of e^r ≥ 0.7: 5e-9 beside 6e-8 for d = 7, 4e-18 beside 1e-16 for d = 13.
_FORMATS = {
    types.float32: _Format(ir.IntType(32), 23, 127, -110.0, _split_logarithm(12), 7),
    types.float64: _Format(ir.IntType(64), 52, 1023, -760.0, _split_logarithm(40), 13),
}


@intrinsic  # pyright: ignore[reportUntypedFunctionDecorator]
def exponential(typing_context: Any, x: Any) -> Any:  # noqa: ARG001 - Numba passes it
    """Return e^x and e^x − 1 for x ≤ 0; NaN for NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_value_type(x)
        exact = _Writer(builder, element, _FORMATS[x])
        values = exact.exponential(arguments[0])
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(x, 2)(x), generate


class _Writer:
    """Writes the instructions, whose order the precision depends on."""

    # No instruction has a fastmath flag, and the functions that take them in are compiled without:
    # (x + large) − large is x to a compiler that may reorder sums, and κ L₁ + κ L₂ is κ ln 2.

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
        # An ordered comparison is false for NaN, which so goes through.
        below = builder.fcmp_ordered("<", x, number(self.form.lowest))
        x = builder.select(below, number(self.form.lowest), x)
        # x = κ ln 2 + r with an integer κ (whole, power), |r| ≤ ln(2)/2 but for a rounding. In
        # r = (x − κ L₁) − κ L₂ the first product and difference are exact (Cody & Waite 1980).
        whole, power = self._nearest(builder.fmul(x, number(1 / math.log(2))))
        for logarithm in self.form.logarithms:
            x = builder.fsub(x, builder.fmul(whole, number(logarithm)))
        # p(r) = e^r − 1, so that e^x = 2^κ (1 + p) and e^x − 1 = 2^κ p + (2^κ − 1).
        excess = self._polynomial(x)
        # 2^κ as a product of two powers: where e^x is subnormal or zero, 2^κ itself has no normal
        # number, but both factors have, with κ/2 rounded down and the rest as exponents.
        half = builder.ashr(power, self.integer(1))
        first, second = self._power_of_two(half), self._power_of_two(builder.sub(power, half))
        value = builder.fadd(number(1.0), excess)
        value = builder.fmul(builder.fmul(value, first), second)
        # No digits cancel in the second sum: for κ = 0 it is p itself, relatively accurate for the
        # smallest x; for κ ≤ −1 it lies between −1 and −0.29, and 2^κ − 1 is exact or −1.
        scale = builder.fmul(first, second)
        change = builder.fadd(builder.fmul(excess, scale), builder.fsub(scale, number(1.0)))
        return value, change

    def _nearest(self, x: Any) -> tuple[Any, Any]:
        """Write the nearest integer, as both types."""
        # Numbers from 2^m to 2^(m+1), with m bits of mantissa, are the integers there: adding
        # 1.5 · 2^m, in their middle, rounds x to an integer, and subtracting it again is exact.
        # In between, the last bits of the sum are that integer: the difference of the two bit
        # patterns is κ, without a conversion that not all vector units have.
        large = 1.5 * 2.0**self.form.mantissa
        shifted = self.builder.fadd(x, self.number(large))
        whole = self.builder.fsub(shifted, self.number(large))
        bits = [self.builder.bitcast(v, self.form.integer) for v in (shifted, self.number(large))]
        return whole, self.builder.sub(*bits)

    def _polynomial(self, x: Any) -> Any:
        # Horner's rule for Σ_{j=1}^d r^j / j! = r (1 + r (1/2 + r (1/6 + …))). A minimax polynomial
        # would save one coefficient or two; Taylor's is exact to first order, so that the result
        # is as accurate relative to itself for the smallest r as for others.
        total = self.number(1 / math.factorial(self.form.degree))
        for power in range(self.form.degree - 1, 0, -1):
            coefficient = self.number(1 / math.factorial(power))
            total = self.builder.fadd(self.builder.fmul(total, x), coefficient)
        return self.builder.fmul(total, x)

    def _power_of_two(self, power: Any) -> Any:
        # The bits of 2^κ: κ + bias as the exponent, and zeros.
        biased = self.builder.add(power, self.integer(self.form.bias))
        shifted = self.builder.shl(biased, self.integer(self.form.mantissa))
        return self.builder.bitcast(shifted, self.element)


# Both functions take e^−|x| or its square, which cannot overflow, and recover the sign at the end.
# Slopes are products of accurate factors. The usual 1 − tanh² and σ (1 − σ) lose all digits, and
# are zero, as soon as a unit is saturated; the logarithm of a Jacobian's entry, and so an exponent,
# would be −∞ where it is merely very negative.


@inlined_exactly
def tanh(x: Any, one: Any) -> Any:
    """Return tanh x and its slope 1/cosh² x; `one` is 1 in the type of x."""
    # With e = e^−2|x| (value) and e − 1 (change):
    #   tanh |x| = (1 − e) / (1 + e),    1/cosh² x = 4 e / (1 + e)² = (2/(1 + e))² e.
    value, change = exponential(-(abs(x) + abs(x)))
    scale = one / (one + value)
    size = -change * scale
    return size if x >= 0 else -size, (scale + scale) * (scale + scale) * value


@inlined_exactly
def sigmoid(x: Any, one: Any) -> Any:
    """Return σ(x), σ(−x), and the slope of σ, their product; `one` is 1 in the type of x."""
    # With e = e^−|x|: σ(|x|) = 1 / (1 + e) and σ(−|x|) = 1 − σ(|x|) = e / (1 + e).
    value, _ = exponential(-abs(x))
    larger = one / (one + value)
    smaller = value * larger
    slope = larger * smaller
    return (larger, smaller, slope) if x >= 0 else (smaller, larger, slope)
