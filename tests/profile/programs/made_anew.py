"""Makes two functions, runs them until they are JIT code, frees them, and so on: names and files have a number."""

import gc

SOURCE = """
def inner_{0}(number):
    total = 0
    for each in range(number):
        total += each & 7
    return total

def outer_{0}():
    for _ in range(120):
        inner_{0}(600)
"""


def once(number):
    names = {}
    exec(compile(SOURCE.format(number), f"/tmp/made_{number}.py", "exec"), names)
    names[f"outer_{number}"]()
    names.clear()


once(0)
print("ready", flush=True)
number = 0
while True:
    number += 1
    once(number)
    if number % 8 == 0:
        gc.collect()
