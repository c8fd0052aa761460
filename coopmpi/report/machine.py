"""A machine file in words."""

import numpy as np

from coopmpi.planner.machine import Machine


def described(machine: Machine) -> str:
    """What was measured, on how many lines a screen has."""
    about, compute, network = machine.about, machine.compute, machine.network
    rows = [("machine", f"{about.name}, {about.ranks} ranks on {about.nodes} node{'s' * (about.nodes > 1)}")]
    rows += [(name, text) for name, text in (("model", about.model), ("measured", about.date), ("by", about.versions)) if text]
    if "times" in compute:
        times = np.array(compute["times"]) * np.array(compute.get("factor", 1.0))
        workers = times.mean(axis=0)
        rows += [("gradient", f"{_seconds(times.mean())} on average, the middle 80 % from {_seconds(np.quantile(times, 0.1))} to "
                              f"{_seconds(np.quantile(times, 0.9))}"),
                 ("slowest worker", f"{workers.argmax()}: {_seconds(workers.max())}, {workers.max() / workers.mean():.2f} times the average")]
    elif "seconds" in compute:
        rows.append(("gradient", _seconds(compute["seconds"])))
    if compute.get("beside", 1.0) > 1:
        rows.append(("beside transfers", f"a gradient takes {compute['beside']:.2f} times as long; {about.hidden:.0%} of an average is "
                                         "over behind gradients"))
    if network.get("kind") != "measured":
        rows.append(("network", ", ".join(f"{key} {value}" for key, value in network.items())))
    else:
        for hop, latency, bandwidth in zip(network["hops"], network["latency"], network["bandwidth"]):
            rows.append((f"to worker i + {hop}", f"{_seconds(latency)}, then {bandwidth / 1e6:.4g} MB/s"))
        for key, name in (("allreduce", "average"), ("all_to_all", "to all others")):
            if not isinstance(network[key], str):
                nbytes, seconds = network[key][-1]
                rows.append((name, f"{_seconds(network[key][0][1])} for a few bytes, {_seconds(seconds)} for {nbytes / 1e6:.4g} MB"))
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {text}" for name, text in rows)


def _seconds(value):
    unit, factor = next(pair for pair in (("s", 1), ("ms", 1e3), ("us", 1e6)) if value * pair[1] >= 1 or pair[0] == "us")
    return f"{value * factor:.3g} {unit}"
