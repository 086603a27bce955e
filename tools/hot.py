"""Two loops that CPython's JIT compiles: work() calls C (max), which calls weigh()."""


def weigh(number: int) -> int:
    total = 0
    for i in range(number):
        total += i * i & 7
    return total


def work(rounds: int) -> None:
    for i in range(rounds):
        max(range(20 + i % 20), key=weigh)


work(10_000)  # until it is compiled
print("ready", flush=True)
work(10**12)
