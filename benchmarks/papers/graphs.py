"""A communication graph of a paper, for `mixing.graph = "benchmarks.papers.graphs:Eight"`."""

from coopmpi.topology.graphs import Adjacency, Graph

# in the matchings of the code that the authors of MATCHA published
EIGHT = (((1, 5), (6, 7), (0, 4), (2, 3)), ((1, 7), (3, 6)), ((1, 0), (3, 7), (5, 6)), ((1, 2), (7, 0)), ((3, 1),))


class Eight(Graph):
    """The graph of 8 workers and 12 links of MATCHA [Wang et al. 2019, arXiv 1905.09435]; degrees 1 to 5."""

    def bind(self, workers, seed):
        import networkx

        graph = networkx.Graph(link for matching in EIGHT for link in matching)
        return Adjacency(networkx.to_scipy_sparse_array(graph, nodelist=range(8)), "the graph of MATCHA")
