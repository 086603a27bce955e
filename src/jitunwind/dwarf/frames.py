"""The bytes of an `.eh_frame`, and where they count from."""

from typing import NamedTuple


class EhFrame(NamedTuple):
    """The bytes of an `.eh_frame`, which count from `address`."""

    address: int
    data: bytes
