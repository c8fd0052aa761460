"""The rules for compressors."""

import numpy as np

from coopmpi.contract.rules import Untried, require
from coopmpi.device.host import Host
from coopmpi.tasks.nn.models import Layout

LAYOUT = Layout([("matrix", (20, 15)), ("bias", (15,)), ("kernel", (4, 3, 3, 3)), ("one", (1,)), ("scalar", ())])
B, SEED = 3, 5  # workers
DRAWS = 200  # rounds over which what is random is averaged


class Trial:
    """A compressor on models of five tensors, float32 and float64."""

    def __init__(self, compressor):
        self.compressor = compressor

    def codecs(self):
        for dtype in ("float32", "float64"):
            yield self.compressor.bind(LAYOUT, dtype, Host(), SEED), dtype

    def models(self, dtype):
        """{what they are: models (B, d)}: ordinary ones, of large and small numbers, with few that count."""
        draw = np.random.default_rng(1)
        x = draw.standard_normal((B, LAYOUT.size)).astype(dtype)
        spikes = np.where(draw.random(x.shape) < 0.05, x, 0)
        return {"ordinary": x, "large": x * 1e4, "small": x * 1e-4, "spiky": spikes.astype(dtype)}


def through(codec, x, workers=range(B), round=0):
    """C(x), by way of the wire."""
    return codec.decode(codec.encode(x, workers, round), workers, round, np.full_like(x, np.nan))


def works(trial):
    """Models become packets of the size that the fields say, and packets finite models of the same shape."""
    for codec, dtype in trial.codecs():
        for what, x in trial.models(dtype).items():
            packed = codec.encode(x, range(B), 0)
            require(packed.shape == (B, codec.nbytes) and packed.dtype == np.uint8, f"a packet is {packed.dtype} {packed.shape}")
            out = codec.decode(packed, range(B), 0, np.full_like(x, np.nan))
            require(np.isfinite(out).all(), f"of {what} models ({dtype}) some numbers became NaN or Inf, or were left out")


def decodes_the_same_everywhere(trial):
    """A packet decodes to the same bits whoever decodes it, and whatever lies beside it."""
    for codec, dtype in trial.codecs():
        x = trial.models(dtype)["ordinary"]
        packed = codec.encode(x, range(B), 4)
        together = codec.decode(packed, range(B), 4, np.empty_like(x))
        for i in range(B):
            alone = codec.decode(packed[i:i + 1].copy(), [i], 4, np.empty_like(x[:1]))
            require(np.array_equal(alone[0], together[i]), f"worker {i}'s packet decodes differently by itself ({dtype})")
            own = codec.encode(x[i:i + 1].copy(), [i], 4)
            require(np.array_equal(own[0], packed[i]), f"worker {i}'s packet depends on the other workers ({dtype})")


def adds_what_it_restores(trial):
    """A packet added to a model gives the sum of the model and of what the packet decodes to."""
    for codec, dtype in trial.codecs():
        models = trial.models(dtype)
        before = models["ordinary"][::-1]
        for what, x in models.items():
            packed = codec.encode(x, range(B), 0)
            total = before + codec.decode(packed, range(B), 0, np.empty_like(x))
            added = codec.add(packed, range(B), 0, before.copy())
            require(np.array_equal(added, total), f"`add` gives another sum than `restore` ({what} models, {dtype})")


def leaves_models_alone(trial):
    """Compressing changes no model, and unpacking no packet."""
    for codec, dtype in trial.codecs():
        for what, x in trial.models(dtype).items():
            before = x.copy()
            packed = codec.encode(x, range(B), 0)
            content = packed.copy()
            codec.decode(packed, range(B), 0, np.empty_like(x))
            require(np.array_equal(x, before), f"`compress` writes into its argument ({what} models)")
            require(np.array_equal(packed, content), f"`restore` writes into the packet ({what} models)")


def keeps_zero(trial):
    """A packet of zeros is the zero model, and so is the packet of the zero model."""
    for codec, dtype in trial.codecs():
        zeros = np.zeros((B, LAYOUT.size), dtype)
        require(not codec.decode(np.zeros((B, codec.nbytes), np.uint8), range(B), 0, np.ones_like(zeros)).any(),
                "a packet of zeros, which stands for a silent worker, is not the zero model")
        require(not through(codec, zeros).any(), "zero comes back as something else")


def contracts_if_it_says_so(trial):
    """If it says `contractive`: on average over its draws ||x - C(x)||^2 < ||x||^2."""
    if not trial.compressor.contractive:
        raise Untried("it says that it is none")
    for codec, dtype in trial.codecs():
        for what in ("ordinary", "large", "spiky"):
            x = trial.models(dtype)[what]
            rounds = DRAWS if trial.compressor.random != "none" else 1
            lost = sum(((x - through(codec, x, round=t)) ** 2).sum(axis=1, dtype=float) for t in range(rounds)) / rounds
            share = (lost / (x ** 2).sum(axis=1, dtype=float)).max()
            require(share < 1, f"of {what} models ({dtype}) it loses {share:.4g} of ||x||^2; leave `contractive` False, or scale "
                               "what it gives")


def draws_as_it_says(trial):
    """Without draws a packet depends on the numbers alone; draws are those of worker and round."""
    for codec, dtype in trial.codecs():
        x = trial.models(dtype)["ordinary"]
        one, again, later = (codec.encode(x, range(B), t) for t in (0, 0, 1))
        require(np.array_equal(one, again), "the same round gives another packet: draw from the generator that `draw` is given")
        if trial.compressor.random == "none":
            require(np.array_equal(one, later), "packets differ from round to round, but random = \"none\"")


def is_linear_and_exact_if_it_says_so(trial):
    """`exact`: C(x) = x. `linear`: C(x + y) = C(x) + C(y)."""
    for codec, dtype in trial.codecs():
        x = trial.models(dtype)["ordinary"]
        y = x[::-1].copy()
        if trial.compressor.exact:
            require(np.array_equal(through(codec, x), x), "it says `exact`, but C(x) differs from x")
        if trial.compressor.linear:
            off = abs(through(codec, x + y) - through(codec, x) - through(codec, y)).max()
            require(off < 1e-4, f"it says `linear`, but C(x + y) - C(x) - C(y) is up to {off:.2g}")


RULES = (works, decodes_the_same_everywhere, adds_what_it_restores, leaves_models_alone, keeps_zero, contracts_if_it_says_so,
         draws_as_it_says, is_linear_and_exact_if_it_says_so)
