"""Numbers as text for tables, figures and messages."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number_in_words(value: int | float, digits: int = 3) -> str:
    """Return a number with a few digits, a typographic minus sign and a sign for infinity.

    Args:
        value: The number; an `int` keeps all its digits.
        digits: Number of significant digits.

    Example:
        >>> number_in_words(-0.123456), number_in_words(12345), number_in_words(float("-inf"))
        ('−0.123', '12345', '−∞')
        >>> number_in_words(1.5e-7), number_in_words(float("nan"))
        ('1.5 · 10⁻⁷', 'unknown')
    """
    if isinstance(value, int):
        return str(value).replace("-", "−")
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    power = f" · 10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", "−") + power


def factor_in_words(log: float) -> str:
    """Return a factor, given by its natural logarithm, beyond the range of floats too.

    Example:
        >>> factor_in_words(0.7), factor_in_words(-69.1), factor_in_words(-math.inf)
        ('2', '10⁻³⁰', '0')
    """
    if not math.isfinite(log):
        return "0" if log == -math.inf else number_in_words(log)
    power = round(log / math.log(10))
    if abs(power) < 3:
        return number_in_words(math.exp(log), digits=2)
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def share_in_words(share: float) -> str:
    """Return a share from 0 to 1 as a percentage.

    Example:
        >>> share_in_words(0.995), share_in_words(0.123), share_in_words(0.00123)
        ('100 %', '12 %', '0.12 %')
    """
    percentage = 100 * share
    return f"{percentage:.0f} %" if percentage >= 1 else f"{number_in_words(percentage, 2)} %"


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1.

    Example:
        >>> counted(1, "layer"), counted(2, "layer")
        ('1 layer', '2 layers')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
