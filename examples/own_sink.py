"""A sink of one's own: the curves of a run in MLflow (`pip install mlflow`), while it goes on.

    coopmpi train -n 4 --set 'sinks=[{kind="own_sink:MLflow", experiment="digits"}]'

With Weights & Biases the calls are wandb.init(project=..., config=...), wandb.log(figures, step=step) and wandb.finish().
"""

import mlflow

from coopmpi.sinks import Sink


class MLflow(Sink):
    experiment: str = "coopmpi"  # a key of its table, with a default

    def open(self, about):
        mlflow.set_experiment(self.experiment)
        mlflow.start_run()
        mlflow.log_text(about.config, "run.toml")

    def steps(self, rows):
        means = {f"train/{name}": column.mean() for name, column in rows.means().items()}
        mlflow.log_metrics(means, step=rows.first + len(rows.tau))

    def evaluation(self, step, wall_time, figures):
        mlflow.log_metrics({f"eval/{name}": value for name, value in figures.items()}, step=step)

    def close(self, status):
        mlflow.end_run("FINISHED" if status == "finished" else "KILLED")
