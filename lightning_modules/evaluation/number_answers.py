"""The number that a text answers with, by value: where GSM8K's authors read "#### 72", models write numbers freely.

What is written is compared, not its first digits: "3/4" is 0.75 and not 3, "1e3" is 1000 and not 1, and "-₹500" has a
sign.
"""

import re
import unicodedata
from fractions import Fraction

from .latex_answers import latex_answer

MARKER = re.compile(r"\banswer\s+is\b\s*:?|####", re.IGNORECASE)
"""Stands before the final answer of a rationale."""

_SEPARATORS = r"_'’\ \xa0\u2009\u202f"
_MINUS = "-\u2010\u2011\u2013\u2212\ufe63\uff0d"
_CURRENCY = r"(?:[A-Z]{0,3}\\?[$£¥\u20a0-\u20cf])?"
_NEGATIVE = re.compile(rf"(?:\b(?:minus|negative)|(?<!\w)[{_MINUS}])\s+(?={_CURRENCY}\.?\d)", re.IGNORECASE)
_NUMBER = re.compile(
    rf"""
    (?P<minus>(?<!\w)[{_MINUS}])? {_CURRENCY}
    (?:
        (?:(?P<whole>\d{{1,18}})\ )? (?<![/\d])(?P<over>\d{{1,18}})/(?P<under>(?!0+(?!\d))\d{{1,18}}) (?![/\d]|[.,]\d)
        | (?:
            (?P<continental> (?<![\d.,])
                (?: [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}(?:,\d+)?             # 1.000.000
                  | [1-9]\d{{0,2}}(?:[.{_SEPARATORS}]\d{{3}})+,\d{{1,2}}   # 1.072,50
                  | 0,\d+ | \d++,(?:\d{{1,2}}|\d{{4,}}) )                # 1,5 and 0,075: no thousands
                (?![.,]?\d) )
            | (?P<digits>
                (?: \d+(?:,\d{{2,3}})*,\d{{3}}(?!,?\d)                   # 1,072 and India's 1,00,000
                  | [1-9]\d{{0,2}}(?P<sign>[{_SEPARATORS}])\d{{3}}(?:(?P=sign)\d{{3}})*(?![,/]?\d|(?P=sign)\d)  # 1 072
                  | \d++(?!,\d) )
                (?:\.\d++)?+(?!\.\d)
                | \.\d+ )
            | (?P<unreadable> \d++(?:[.,]\d++)+ )                    # 1,2,3
          )
          (?: (?:e|\ ?(?:[×x*]|\\times|\\cdot)\ ?10\^\{{?) (?P<exponent>[+-]?\d{{1,3}})(?!\w) )?
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_ONE_SIGN = re.compile("[\xbc-\xbe\u2150-\u215e]")  # ¼, ½, ...
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
_MIXED = re.compile(rf"(?<=\d)(?={_ONE_SIGN.pattern}|{_LATEX_FRACTION.pattern})")
_SIGNS = str.maketrans({"\u066b": ".", "\u066c": ",", "\uff0c": ",", "\uff0e": ".", "\uff04": "$", "\uffe5": "¥"})


def final_number(text: str) -> str | None:
    """Return the number of the final answer, by value; None if there is none, or none that can be read ("1.2.3").

    It is the last number in the last \\boxed{}, else the first one of the sentence after the last "answer is" or "####"
    (of an equation there: of its right side), else the last one of the text. Currency, units, per cent signs and
    thousands separators do not count; signs do, also as words. A comma before three digits separates thousands, before
    other numbers of digits it is a decimal comma; a single point is a decimal point.

    >>> final_number("48 + 24 = 72. The answer is $1,072.50 a week"), final_number("It is \u22125%.")
    ('1072.5', '-5')
    >>> [final_number(text) for text in ("The answer is 3/4.", "1/3", "1.5e3", "2\u00bd cups", "\u0663")]
    ['0.75', '1/3', '1500', '2.5', '3']
    >>> [final_number(text) for text in ("1 072", "1,500", "1,5", "1.000.000", "1.072,50")]
    ['1072', '1500', '1.5', '1000000', '1072.5']
    """
    *before, last = MARKER.split(text)
    sentence = _SENTENCE_END.split(last.strip().partition("\n")[0])[0] if before else ""
    after = _NEGATIVE.sub("-", sentence.rpartition("=")[2], count=1)
    numbers = _numbers(latex_answer(text) or "")[-1:] or _numbers(after)[:1] or _numbers(text)[-1:]
    return numbers[0] or None if numbers else None


def _numbers(text: str) -> list[str]:
    return [_value(match) for match in _NUMBER.finditer(_plain(text))]


def _plain(text: str) -> str:
    """The text with ASCII digits, and with separators and fractions as one types them."""
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", "\u2009").translate(_SIGNS)
    text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = _LATEX_FRACTION.sub(r"\1\2/\3\4", _MIXED.sub(" ", text))
    return _ONE_SIGN.sub(lambda sign: unicodedata.normalize("NFKC", sign[0]).replace("\u2044", "/"), text)


def _value(number: re.Match[str]) -> str:
    """Return a number's value: decimal digits, or a fraction that has no end as decimal; empty if it is unreadable."""
    if number["unreadable"]:
        return ""
    if number["under"]:
        fraction = int(number["whole"] or 0) + Fraction(int(number["over"]), int(number["under"]))
        whole, part = _as_decimal(fraction) or (str(fraction), "")
    else:
        digits = number["digits"] or number["continental"].replace(".", "").replace(",", ".")
        whole, _, part = re.sub(r"[^\d.]", "", digits).partition(".")
        whole, part = _shifted(whole, part, int(number["exponent"] or 0))
    value = f"{whole}.{part}" if part else whole
    return f"-{value}" if number["minus"] and value != "0" else value


def _as_decimal(fraction: Fraction) -> tuple[str, str] | None:
    """The digits before and behind the decimal point; None if they do not end."""
    for places in range(64):
        if (10**places) % fraction.denominator == 0:
            return _shifted(str(fraction.numerator * 10**places // fraction.denominator), "", -places)
    return None


def _shifted(whole: str, part: str, exponent: int) -> tuple[str, str]:
    """The digits before and behind the decimal point after it moves, without zeros that do not change the value.

    >>> _shifted("0015", "20", 1), _shifted("15", "", -3)
    (('152', ''), ('0', '015'))
    """
    digits, point = whole + part, len(whole) + exponent
    digits = "0" * -point + digits + "0" * (point - len(digits))
    return digits[: max(point, 0)].lstrip("0") or "0", digits[max(point, 0) :].rstrip("0")
