"""dpa whose exchange hides behind the next period."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mix, Slot, Start


@register("algorithm", "overlap-dpa")
class OverlapDPA(Algorithm, frozen=True, kw_only=True):
    """At a round, from the snapshots S taken one round ago, which were mixed meanwhile, local progress is kept:

        X <- W S + (X - S);  S <- X

    and the exchange of the new snapshots is started. The mean moves as in `dpa`; with W = J this is CoCoD-SGD.
    """

    family = "decentralised"
    source = "Wang & Joshi, Cooperative SGD, JMLR 22(213), 2021, A(tau, W, 0), applied one round later as in CoCoD-SGD"
    bibtex = ("wang2021cooperative", "shen2019cocod")
    slots = (Slot("snapshot", "worker", "model", "the models at the last round"),
             Slot("mixed", "worker", "model", "the snapshots, mixed"),
             Slot("mixing", "ticket", "none", "that mixture while it is under way"))
    uses_period = True
    uses_mixing = True

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            yield from self.finish(state, context)
            # x <- W s + (x - s)
            state.snapshot = context.combine((1.0, -1.0, 1.0), (state.x, state.snapshot, state.mixed))
            state.mixing = yield Start(Mix(state.snapshot, context.round))
            state.x = context.copy(state.snapshot)  # local steps work in place
        return loss

    def finish(self, state, context):
        if state.mixing is not None:
            state.mixed, state.mixing = (yield Finish(state.mixing)), None
