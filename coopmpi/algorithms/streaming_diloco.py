"""Streaming DiLoCo: fragments are averaged in turns, hidden."""

from coopmpi.errors import UserError
from coopmpi.ranges import Count, Fraction, Positive, Whole
from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mean, Slot, Start


@register("algorithm", "streaming-diloco")
class StreamingDiLoCo(Algorithm, frozen=True, kw_only=True):
    """Fragment f = 1 .. F, an equal slice of the model, starts the mean of its x_i after step ceil(f tau / F) of
    every period; `delay` steps later, with the outer gradient D = z - mean x as it was then

        u <- beta u + D;  z <- z - outer_lr (D + beta u);  x_i <- merge x_i + (1 - merge) z

    on that fragment. Peak traffic is that of DiLoCo divided by F, and what is sent in all the same. fragments = 1,
    delay = 0, merge = 0 is DiLoCo. Needs a fixed period longer than the delay.
    """

    family = "outer step"
    source = "Douillard et al., Streaming DiLoCo with overlapping communication, 2025 (arXiv 2501.18512)"
    bibtex = ("douillard2025streaming",)
    optimizer = "adamw"
    slots = (Slot("z", "replica", "model", "the common model, each fragment as of its last round"),
             Slot("u", "replica", "zero", "outer momentum"),
             Slot("mean", "replica", "model", "mean of the models, each fragment as it last arrived"),
             Slot("tickets", "ticket", "none", "the fragments' means that are under way"))
    uses_period = True

    fragments: Count = 4
    delay: Whole = 1  # steps
    merge: Fraction = 0.5
    outer_lr: Positive = 0.4
    beta: Fraction = 0.9

    def check(self, workers, mixing, config):
        super().check(workers, mixing, config)
        period = config.period
        if period.name != "every" or period.tau <= self.delay:
            given = f"tau = {period.tau}" if period.name == "every" else f"kind = {period.name!r}"
            raise UserError('streaming-diloco needs [period] kind = "every" with tau greater than '
                            f"[algorithm] delay = {self.delay}, given {given}")

    def step(self, state, context):
        loss = yield from context.local_step(state)
        tickets = list(state.tickets or [None] * self.fragments)
        for f in self.scheduled(context.k, context.tau):
            span = self.span(f, state.x)
            tickets[f] = yield Start(Mean(context.copy(state.x[:, span]), near=state.z[:, span]))
        state.tickets = tuple(tickets)
        if context.k >= self.delay:
            due = self.scheduled(context.k - self.delay, context.tau)
            yield from self.arrive(due, state)
            # the step's last request has been answered: from here on in place
            for f in due:
                self.outer_step(self.span(f, state.x), state, context)
        return loss

    def scheduled(self, k, tau):
        """The fragments whose mean starts after step k."""
        return [f for f in range(self.fragments) if -(-(f + 1) * tau // self.fragments) == k % tau + 1]

    def span(self, f, x):
        d = x.shape[1]
        return slice(f * d // self.fragments, (f + 1) * d // self.fragments)

    def arrive(self, fragments, state):
        """Finish the means of these fragments, where they are under way."""
        tickets, arrived = list(state.tickets), []
        for f in fragments:
            if tickets[f] is not None:
                arrived.append((self.span(f, state.x), (yield Finish(tickets[f]))))
                tickets[f] = None
        state.tickets = tuple(tickets)
        for span, mean in arrived:
            state.mean[:, span] = mean

    def outer_step(self, span, state, context):
        x, z, u = state.x[:, span], state.z[:, span], state.u[:, span]
        gradient = context.combine((1.0, -1.0), (z, state.mean[:, span]))
        # u <- beta u + D;  z <- z - outer_lr (D + beta u);  x_i <- merge x_i + (1 - merge) z
        u[...] = context.combine((self.beta, 1.0), (u, gradient))
        z[...] = context.combine((1.0, -self.outer_lr, -self.outer_lr * self.beta), (z, gradient, u))
        x[...] = context.combine((self.merge, 1 - self.merge), (x, z))

    def finish(self, state, context):
        if state.tickets:
            yield from self.arrive(range(self.fragments), state)
