"""Names of functions as people write them: the qualified name of a mangled one (Itanium C++ ABI, section 5.1)."""

import re

_NESTED = re.compile(r"^(.*?)_ZN(?=\d)")
_LENGTH = re.compile(r"(B?)(\d+)")


def plain_name(symbol: str) -> str:
    """`__main__::outer` of `_ZN8__main__5outerB2v1…Ex`, as numba makes them: without ABI tags and parameters, with what
    stands before `_ZN`. Any other symbol as it is."""
    begin = _NESTED.match(symbol)
    if begin is None:
        return symbol
    at, parts = begin.end(), list[str]()
    while (length := _LENGTH.match(symbol, at)) is not None:
        end = length.end() + int(length[2])
        if end > len(symbol):
            return symbol
        if not length[1]:
            parts.append(symbol[length.end() : end])
        at = end
    return f"{begin[1]}{'::'.join(parts)}" if symbol[at : at + 1] in ("E", "I") else symbol
