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

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due and (context.round + 1) % self.average_every == 0:
            state.x = context.replicate((yield Mean(state.x)), like=state.x)
        elif context.round_due:
            state.x = yield Mix(state.x, context.round)
        return loss
