"""Strings, slices, comparisons, unpacking, sets, comprehensions and formatting."""

from handshake import run_forever

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")


def work() -> int:
    seen, text, count = set(), "", 0
    for i in range(40):
        word = WORDS[i % 5]
        text += word[0]
        if word == "gamma":
            text = text[1:]
        seen.add(word[-1])
        head, *tail = word[:4]
        count += len(tail) + (head in seen)
        count += len(f"{i}:{word}")
        count += sum([j * 2 for j in (1, 2, 3)])
        if not text.startswith("a"):
            count -= 1
    return count


run_forever(work)
