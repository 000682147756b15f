"""Numbers as text for tables, figures and messages."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_number(value: int | float, digits: int = 3) -> str:
    """Return a number with a few digits, a typographic minus sign and a sign for infinity.

    Args:
        value: The number; an `int` keeps all its digits.
        digits: Number of significant digits.

    Example:
        >>> format_number(-0.123456), format_number(12345), format_number(float("-inf"))
        ('−0.123', '12345', '−∞')
        >>> format_number(1.5e-7), format_number(float("nan"))
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


def format_factor(log: float) -> str:
    """Return a factor, given by its natural logarithm, beyond the range of floats too.

    Example:
        >>> format_factor(0.7), format_factor(-69.1), format_factor(-math.inf)
        ('2', '10⁻³⁰', '0')
    """
    if not math.isfinite(log):
        return "0" if log == -math.inf else format_number(log)
    power = round(log / math.log(10))
    if abs(power) < 3:
        return format_number(math.exp(log), digits=2)
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def format_share(share: float) -> str:
    """Return a share from 0 to 1 as a percentage.

    Example:
        >>> format_share(0.995), format_share(0.123), format_share(0.00123)
        ('100 %', '12 %', '0.12 %')
    """
    percentage = 100 * share
    return f"{percentage:.0f} %" if percentage >= 1 else f"{format_number(percentage, 2)} %"


def printable(text: str) -> str:
    r"""Return text with the characters that a terminal obeys, or that are none, shown escaped.

    Names in files may hold them: sequences that move the cursor or hide text, marks that change
    the direction of writing, halves of surrogate pairs. Line breaks and tabs stay.

    Example:
        >>> printable("weight\x1b[2J λ")
        'weight\\x1b[2J λ'
    """
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in "\n\t"
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def plural(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1.

    Example:
        >>> plural(1, "layer"), plural(2, "layer")
        ('1 layer', '2 layers')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
