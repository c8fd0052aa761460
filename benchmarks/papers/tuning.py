"""Runs of an experiment: each method tuned with one seed, then repeated with others."""

from multiprocessing import get_context

import numpy as np

from benchmarks.papers.curve import Job, run
from benchmarks.papers.measures import Curves
from benchmarks.papers.results import stack


def carry_out(experiment, processes):
    """{setting: (targets per seed, {method: (chosen, tried, rows per seed)})}; without a target None."""
    pairs = [(setting, method) for setting in experiment.settings for method in experiment.methods_in(setting)]
    jobs = [(setting.name, method.name, i, _job(experiment, setting, method, chosen, experiment.tuning_seed))
            for setting, method in pairs for i, chosen in enumerate(experiment.grid(setting, method))]
    with get_context("spawn").Pool(processes) as pool:
        tuning = dict(zip((key[:3] for key in jobs), _with_progress("tuning", pool, [key[3] for key in jobs])))
        goals, choices = [], {}
        for setting in experiment.settings:
            found = {method.name: [tuning[setting.name, method.name, i] for i in range(len(experiment.grid(setting, method)))]
                     for method in experiment.methods_in(setting)}
            target = None
            if experiment.target is not None:
                finals = [_final(experiment, setting, rows) for rows in found[experiment.target]]
                target = experiment.goal(setting, min(finals))
                goals.append((setting, experiment.grid(setting, experiment.reference)[int(np.argmin(finals))]))
            for method in experiment.methods_in(setting):
                scores = [_score(experiment, setting, rows, target) for rows in found[method.name]]
                choices[setting.name, method.name] = int(np.lexsort(np.array(scores).T[::-1])[0]), scores
        jobs = [_job(experiment, setting, method, experiment.grid(setting, method)[choices[setting.name, method.name][0]], seed)
                for setting, method in pairs for seed in experiment.seeds]
        # with every seed, the loss that the reference ends with at its best, and a little more, is the target
        jobs += [_job(experiment, setting, experiment.reference, chosen, seed)
                 for setting, chosen in goals for seed in experiment.seeds]
        runs = iter(_with_progress("seeds", pool, jobs))
    found = {setting.name: (None, {}) for setting in experiment.settings}
    for setting, method in pairs:
        best, scores = choices[setting.name, method.name]
        grid = experiment.grid(setting, method)
        tried = [[chosen, *map(float, score)] for chosen, score in zip(grid, scores)]
        found[setting.name][1][method.name] = grid[best], tried, [next(runs) for _ in experiment.seeds]
    for setting, _ in goals:
        finals = [_final(experiment, setting, next(runs)) for _ in experiment.seeds]
        found[setting.name] = experiment.goal(setting, np.array(finals)), found[setting.name][1]
    return found


def _job(experiment, setting, method, chosen, seed):
    return Job(experiment.description(setting, method, chosen, seed), experiment.seconds(setting), experiment.centre)


def _final(experiment, setting, rows):
    """The final loss of one run, inf if it diverged."""
    return float(np.nan_to_num(Curves(stack([rows]), experiment, setting).measure("final")[0], nan=np.inf))


def _score(experiment, setting, rows, target):
    """What tuning makes small: time (or traffic, or steps) to the target, then the final loss."""
    curves = Curves(stack([rows]), experiment, setting, target)
    return (curves.to_target(experiment.x)[0] if target is not None else 0.0), _final(experiment, setting, rows)


def _with_progress(what, pool, jobs):
    done = []
    for result in pool.imap(run, jobs):
        done.append(result)
        print(f"\r{what} {len(done)}/{len(jobs)}", end="", flush=True)
    print()
    return done
