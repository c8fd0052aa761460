"""Error feedback: what compression left out is remembered and sent later."""

from collections.abc import Sequence
from typing import NamedTuple

from coopmpi.compression.codec import Codec
from coopmpi.step.requests import Array


class Sent(NamedTuple):
    """What goes out, and what stays."""

    packed: Array  # (b, nbytes) uint8
    value: Array  # (b, d), what every receiver makes of it
    memory: Array  # (b, d), for the next round


def compress_with_feedback(codec: Codec, value: Array, memory: Array, workers: Sequence[int], round: int) -> Sent:
    """p = value + memory; q = C(p); memory <- p - q. Arrays (b, d), which are left as they are.

    Summed over rounds, what was sent plus the last memory is what was put in.
    Source: Karimireddy et al., Error feedback fixes SignSGD, ICML 2019.
    """
    device = codec.device
    p = device.xp.add(value, memory, out=device.empty(value.shape, value.dtype))
    packed = codec.encode(p, workers, round)
    q = codec.decode(packed, workers, round, device.empty(p.shape, p.dtype))
    return Sent(packed, q, device.xp.subtract(p, q, out=p))
