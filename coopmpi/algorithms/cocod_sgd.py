"""CoCoD-SGD: local progress stays while the average travels."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mean, Slot, Start


@register("algorithm", "cocod-sgd")
class CoCoDSGD(Algorithm, frozen=True, kw_only=True):
    """At a round, from the snapshot s_i taken one round ago, whose average travelled meanwhile:

        x_i <- mean(s) + (x_i - s_i);  s_i <- x_i

    and the average of the new snapshots is started.
    """

    family = "periodic averaging"
    source = ("Shen et al., Faster distributed deep net training: computation and communication decoupled SGD, "
              "IJCAI 2019")
    bibtex = ("shen2019cocod",)
    slots = (Slot("snapshot", "worker", "model", "the models at the last round"),
             Slot("average", "replica", "model", "mean of the snapshots"),
             Slot("mean", "ticket", "none", "that mean while it is under way"))
    uses_period = True

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            yield from self.finish(state, context)
            # x_i <- mean(s) + (x_i - s_i)
            state.snapshot = context.combine((1.0, -1.0, 1.0), (state.x, state.snapshot, state.average))
            state.mean = yield Start(Mean(state.snapshot, near=state.average))
            state.x = context.copy(state.snapshot)  # local steps work in place
        return loss

    def finish(self, state, context):
        if state.mean is not None:
            state.average, state.mean = (yield Finish(state.mean)), None
