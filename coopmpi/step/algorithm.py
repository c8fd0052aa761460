"""The base of all algorithms."""

from typing import Any, ClassVar

import numpy as np

from coopmpi.errors import UserError
from coopmpi.registry import Part
from coopmpi.step.context import Context
from coopmpi.step.requests import Requests
from coopmpi.step.slots import Slot, State


class Algorithm(Part, frozen=True, kw_only=True):
    """Base of all algorithms. Fields are the keys of the [algorithm] table; class attributes describe it.

    A new algorithm is one file in coopmpi/algorithms with a registered subclass that defines `step`.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "others"  # beside which others it is listed
    source: ClassVar[str]  # paper and equation
    bibtex: ClassVar[tuple[str, ...]] = ()  # keys into coopmpi/references.bib
    optimizer: ClassVar[str] = "sgd"  # what it is published with, where there is no [optimizer]
    slots: ClassVar[tuple[Slot, ...]] = ()  # state beyond the models and the optimiser's own
    uses_period: ClassVar[bool] = False
    uses_mixing: ClassVar[bool] = False
    uses_compress: ClassVar[bool] = False
    push_sum: ClassVar[bool] = False  # do senders choose the weights of [mixing]?
    per_tensor: ClassVar[bool] = False  # does it treat every tensor of the model by itself?
    compresses_like: ClassVar[str | None] = None  # what it does without [compress] costs as much as this kind of it
    needs_agreement: ClassVar[bool] = True  # must X <- W X make all agree? False: x moves only partly to W x
    needs_contraction: ClassVar[bool] = False  # of the compressor: what it leaves out is sent later
    takes_halves: ClassVar[bool] = True  # may whole vectors travel as 16-bit numbers?

    def bind_mixing(self, mixing: Any, workers: int, seed: int) -> Any:
        """The MixingMatrix, or PushSum, that a Mix stands for; mixing: the [mixing] table, as coopmpi.topology.mixing.Mixing."""
        return mixing.push_sum(workers, seed) if self.push_sum else mixing.bind(workers, seed)

    def bound_slots(self, context: Context) -> tuple[Slot, ...]:
        """The slots of a run."""
        return self.slots

    def check(self, workers: int, mixing: Any, config: Any) -> None:
        """Raise UserError if these parts cannot work together; called before anything is allocated.

        mixing: the run's MixingMatrix, or None; config: the run description. Subclasses add their own rules to these.
        """
        if self.needs_agreement and mixing is not None and not mixing.agrees:
            raise UserError(f"{self.name} needs a W that brings the workers together; with {mixing.description}, they "
                            "never agree: it has more than one eigenvalue of modulus 1. Set lazy = true in [mixing], "
                            "which takes (I + W) / 2")
        if config.compress.halves and not (self.uses_compress or self.takes_halves):
            raise UserError(f"[compress] kind = {config.compress.name!r}: what {self.name} averages may not be rounded to 16 "
                            "bits; leave it out, or take an algorithm that averages models or gradients")
        if self.needs_contraction and not config.compress.contractive:
            raise UserError(f"{self.name} needs a contractive compressor, ||x - C(x)||^2 < ||x||^2, but "
                            f"{config.compress.name} says it is none; leave out the factor that frees it from bias")

    def step(self, state: State, context: Context) -> Requests:
        """One step of every worker: a generator of requests that returns the losses (b,).

        From its first exchange on a step leaves the arrays alone that its slots referred to then, and binds its slots
        to other arrays: what is under way is not to change, and a round that is cut off can be thrown away. After
        the last request of the step has been answered, it may work in place.
        """
        raise NotImplementedError

    def finish(self, state: State, context: Context) -> Requests:
        """Complete what is still under way after the last step: a generator of requests.

        Neutral: a run that goes on afterwards computes the same numbers as one in which `finish` was not called.
        """
        yield from ()

    def follows_numbers(self) -> str:
        """Why the requests depend on the numbers that are computed; empty: they do not, which is the usual case."""
        return ""

    def unconditional(self) -> "Algorithm":
        """This algorithm with requests that do not depend on numbers, as if all workers always sent: for forecasts."""
        return self

    def matrix_form(self, workers: int, tau: int, mixing: np.ndarray) -> tuple[int, np.ndarray, int] | None:
        """(tau, W, v) of Cooperative SGD, X <- W (X - lr G) every tau steps with v auxiliary rows, or None.

        workers m, the period tau, mixing the (m, m) float64 matrix of the graph; W is (m+v, m+v) float64.
        """
        return None
