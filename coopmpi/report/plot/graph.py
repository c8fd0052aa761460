"""Pictures of a mixing graph: its links, of each round or all together, and its eigenvalues."""

import numpy as np

from coopmpi.errors import clean
from coopmpi.report.plot.figure import INCHES
from coopmpi.report.plot.network import Network

NAMED = 40  # workers up to which each has its number
LINK, NODE = "0.25", "#56B4E9"


def draw(network: Network, paper: str | None):
    """The Figure of a network, in the look that is in force."""
    from matplotlib.figure import Figure

    panels = len(network.drawings) + 1
    across = 2 if paper == "single" or panels == 4 else min(panels, 3)
    down = -(-panels // across)
    width = INCHES[paper] if paper else 3.4 * across
    figure = Figure(figsize=(width, width / across * down + 0.7), layout="constrained")
    places = figure.subplots(down, across, squeeze=False).ravel()
    for place in places[panels:]:
        place.set_axis_off()
    for place, drawing in zip(places, network.drawings):
        _links(place, network, drawing)
        _nodes(place, network)
        place.set(aspect="equal")
        place.set_title(drawing.title, fontsize="small")
        place.margins(0.12)
        place.set_axis_off()
    _spectrum(places[panels - 1], network)
    figure.suptitle(clean(network.description), fontsize="medium")
    return figure


def _links(place, network, drawing):
    from matplotlib.patches import FancyArrowPatch

    back = np.sqrt(_size(network)) / 1.6 * network.directed  # an arrow ends at the border of its node
    for source, target, strength in zip(drawing.sources, drawing.targets, drawing.strength):
        if not network.directed and source > target:
            continue  # the same line
        bend = 0.12 * network.directed + 0.3 * _wraps(network, source, target)
        place.add_patch(FancyArrowPatch(
            network.places[source], network.places[target], arrowstyle="-|>" if network.directed else "-", mutation_scale=7,
            connectionstyle=f"arc3,rad={bend}", linewidth=0.4 + 0.8 * strength, color=LINK, alpha=0.25 + 0.75 * strength, shrinkA=0,
            shrinkB=back, zorder=1))


def _wraps(network, source, target):
    """Does a link lead across the border of a grid?"""
    if network.wrapped is None:
        return False
    ends = np.unravel_index([source, target], network.wrapped)
    return any(abs(int(first) - int(second)) > 1 for first, second in ends)


def _nodes(place, network):
    number, size = len(network.places), _size(network)
    colours = [NODE] * network.workers + ["white"] * (number - network.workers)
    place.scatter(*network.places.T, s=2.2 * size, color=colours, edgecolor="black", linewidth=0.5, zorder=2)
    for i, (x, y) in enumerate(network.places if number <= NAMED else ()):
        place.text(x, y, i if i < network.workers else "z", ha="center", va="center", fontsize=min(7.5, 2 + np.sqrt(size)), zorder=3)


def _size(network):
    """Of a node, in square points."""
    return np.clip(260 / np.sqrt(len(network.places)), 4, 90)


def _spectrum(place, network):
    values, grey = network.eigenvalues, ""
    if np.iscomplexobj(values):
        angle = np.linspace(0, 2 * np.pi, 200)
        place.plot(np.cos(angle), np.sin(angle), color="0.6", linewidth=0.6)
        place.plot(values.real, values.imag, "o", color="black", markersize=3, markerfacecolor="none")
        place.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
    else:
        grey = " (grey)"
        place.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        place.axhspan(network.zeta, 1, color="0.9", zorder=0)
        place.plot(np.arange(1, len(values) + 1), np.sort(values)[::-1], "o", color="black", markersize=np.clip(80 / len(values), 1.5, 4))
        place.set(ylim=(min(-0.05, values.min() * 1.08), 1.05), xlabel="rank", ylabel="eigenvalue")
        place.xaxis.get_major_locator().set_params(integer=True)
    place.set_title(f"eigenvalues of {network.of_what}\n$\\zeta$ = {network.zeta:.4g}, gap 1 - $\\zeta$ = {1 - network.zeta:.4g}{grey}",
                    fontsize="small")
