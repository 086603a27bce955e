"""Makes code for ever, so that there is always some to publish."""

from handshake import ready
from made import make

make()
ready()
while True:
    make()
