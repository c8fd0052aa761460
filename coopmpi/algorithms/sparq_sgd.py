"""SPARQ-SGD: event-triggered compressed gossip, no momentum."""

from coopmpi.algorithms.squarm_sgd import Triggered
from coopmpi.errors import UserError
from coopmpi.registry import register


@register("algorithm", "sparq-sgd")
class SPARQSGD(Triggered, frozen=True, kw_only=True):
    """The recursion of SQuARM-SGD with plain SGD steps: tau local steps, trigger ||x_i - h_i||^2 > c lr^2, then

        h_i <- h_i + C(x_i - h_i) or unchanged;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)
    """

    family = "compressed"
    source = "Singh, Data, George & Diggavi, SPARQ-SGD, 2019 (arXiv 1910.14280), Algorithm 1"
    bibtex = ("singh2019sparq",)

    def check(self, workers, mixing, config):
        super().check(workers, mixing, config)
        if config.optimizer.remembers:
            raise UserError(f"sparq-sgd takes plain SGD steps, without momentum, given [optimizer] kind = "
                            f"{config.optimizer.name!r} with a {config.optimizer.remembers}; with momentum, the method is squarm-sgd")
