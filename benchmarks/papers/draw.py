"""The picture of an experiment: curves of loss against time or traffic, or points."""

import numpy as np

from benchmarks.papers.measures import HEADINGS

AXES = {"virtual_time": "virtual seconds", "megabytes": "MB sent by all workers", "step": "steps",
        "train_loss": "training loss", "loss": "held-out loss"}
RESOLVED = 1e-7  # of a loss: what is below is at the optimum


def draw(sweep, page, found, path):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "coopmpi", "axes.spines.top": False,
                                "axes.spines.right": False, "axes.prop_cycle": _styles(matplotlib)})
    figure = (_points if page.points else _curves)(sweep, page, found)
    figure.suptitle(sweep.title, fontsize=10)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _styles(matplotlib):
    colours = [matplotlib.colormaps["tab10"](i) for i in range(10)]
    return matplotlib.cycler(color=colours * 2, linestyle=["-"] * 10 + ["--"] * 10)


def _curves(sweep, page, found):
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    n = len(found)
    across = min(n, 3)
    down = -(-n // across)
    figure = Figure(figsize=(3.6 * across + 2.2, 3.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    # a method looks the same in every setting
    styles = {method.name: style for method, style in zip(sweep.methods, rcParams["axes.prop_cycle"])}
    lines = {}
    for panel, (setting, methods) in zip(panels, found.items()):
        ends = []
        for method, (_, curves) in methods.items():
            zero = curves.reference.measure("final").mean() if page.excess else 0.0
            x, y = curves.column(page.x), curves.smoothed() - zero
            grid = _common(x, page.log)
            known = ~np.isnan(x) & ~np.isnan(y)
            ys = np.stack([np.interp(grid, a[ok], b[ok], right=np.nan) for a, b, ok in zip(x, y, known) if ok.any()])
            lines[method], = panel.plot(grid, ys.mean(axis=0), linewidth=1.3, **styles[method])
            panel.fill_between(grid, ys.min(axis=0), ys.max(axis=0), alpha=0.15, color=styles[method]["color"], linewidth=0)
            ends.append(np.nanmin(ys.mean(axis=0)))
            if curves.target is not None:
                panel.axhline(np.mean(curves.target) - zero, color="grey", linewidth=0.6, linestyle=":")
        if page.excess:
            panel.set(yscale="log", ylim=(RESOLVED, None))
        else:
            first = np.nanmax([curves.smoothed()[:, 0].mean() for _, curves in methods.values()])
            low = np.nanmin(ends)
            panel.set_ylim(low - 0.05 * (first - low), low + 0.3 * (first - low))
        panel.set(title=setting, xlabel=AXES[page.x], xscale="log" if page.log else "linear")
    for panel in panels[n:]:
        panel.set_axis_off()
    panels[0].set_ylabel(AXES[sweep.score.figure] + " above the reference" * page.excess)
    shown = [method for method in styles if method in lines]
    figure.legend([lines[method] for method in shown], shown, loc="outside right center", frameon=False)
    return figure


def _common(x, log):
    """Points along the axis that all seeds reach."""
    end = np.nanmin(np.nanmax(x, axis=1))
    if not log:
        return np.linspace(0, end, 200)
    start = np.nanmin(x[x > 0])
    return np.geomspace(start, end, 200)


def _points(sweep, page, found):
    from matplotlib.figure import Figure

    wide = max(3.4, 0.24 * len(sweep.methods))
    figure = Figure(figsize=(wide * len(page.points) + 1.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(page.points), squeeze=False)[0]
    for panel, measure in zip(panels, page.points):
        for shift, (setting, methods) in enumerate(found.items()):
            values = np.stack([curves.measure(measure) for _, curves in methods.values()])
            at = np.arange(len(values)) + 0.12 * (shift - (len(found) - 1) / 2)
            panel.errorbar(at, values.mean(axis=1), values.std(axis=1, ddof=1), fmt="o", markersize=4, capsize=2,
                           linestyle="none", label=setting)
        panel.set_xticks(range(len(values)), list(methods), rotation=60, ha="right", rotation_mode="anchor")
        panel.set_ylabel(HEADINGS[measure])
        panel.margins(y=0.15)
    if len(found) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
