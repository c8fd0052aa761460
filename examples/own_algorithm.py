"""Gossip with an exact average now and then: Gossip-PGA.

    coopmpi train -n 4 --set algorithm.kind=own_algorithm:GossipPGA --set period.tau=1
    coopmpi algorithms own_algorithm:GossipPGA
"""

from coopmpi.step import Algorithm, Mean, Mix


class GossipPGA(Algorithm, frozen=True, kw_only=True):
    """X <- W X after the local steps, and every `average_every` rounds X <- J X instead."""

    source = "Chen et al., Accelerating gossip SGD with periodic global averaging, ICML 2021"
    uses_period = True
    uses_mixing = True

    average_every: int = 10  # rounds

    def step(self, state, run):
        loss = yield from run.local_step(state)
        if run.round_due and (run.round + 1) % self.average_every == 0:
            state.x = run.replicate((yield Mean(state.x)), like=state.x)
        elif run.round_due:
            state.x = yield Mix(state.x, run.round)
        return loss
