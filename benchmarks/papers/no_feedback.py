"""What error feedback is worth: the same compression, with nothing remembered of what it leaves out."""

from coopmpi.algorithms.double_compressed import DoubleCompressed


class NoFeedback(DoubleCompressed, frozen=True, kw_only=True):
    """Double-compressed local SGD whose memories are emptied after every round: e_i <- 0, E <- 0."""

    def step(self, state, run):
        loss = yield from super().step(state, run)
        # the step's last request has been answered: from here on in place
        if run.round_due:
            state.left_out[:] = 0
            state.left_out_down[:] = 0
        return loss
