"""A result file as data for Python: `coopmpi.open`."""

import tomllib

import numpy as np

from coopmpi.errors import UserError, missing
from coopmpi.inputs import DAMAGE, told
from coopmpi.record.models import final_model
from coopmpi.record.reader import Event, events_of, open_run, verify


class Result:
    """A result file, open for reading, with the rows that it holds at this moment; series are read when they are used.

    data: a DataTree of xarray with the nodes
        steps: loss, compute_time, wait_time, bytes_sent (step, worker), tau (step);
        evaluations: loss, train_loss, accuracy, consensus, ... (step) of the mean model, the first one before step 1;
        rounds: tau, wait_time, bytes_sent of the steps after which workers had sent something;
        transfers: those that rank 0 let travel beside its gradients, where there are such.
    Coordinates are step, worker, wall_time and, of simulations, virtual_time; units and descriptions are attributes.
    config: the tables of the run description, resolved. events: what happened, a list of Event.

    UserError for what is not a result, is damaged, or was written in another format; where xarray is not installed.
    """

    def __init__(self, path):
        try:
            from coopmpi.record.tree import tree
        except ModuleNotFoundError as error:
            raise missing("coopmpi.open", error.name, "xarray") from error
        verify(path)
        self.path, self._file = str(path), open_run(path)
        try:
            self.config = tomllib.loads(self._file["config"].asstr()[()])
            self.events: list[Event] = events_of(self._file)
            self.data = tree(self._file)
        except DAMAGE as error:
            raise UserError(f"{path}: damaged: {told(error)}") from error

    @property
    def steps(self):
        """The node `steps` as a Dataset."""
        return self._node("steps")

    @property
    def evaluations(self):
        """The node `evaluations` as a Dataset; UserError for a simulation of time alone, which has none."""
        return self._node("evaluations")

    @property
    def rounds(self):
        """The node `rounds` as a Dataset."""
        return self._node("rounds")

    def model(self, worker: int | None = None) -> dict[str, np.ndarray]:
        """The tensors of the mean model, or of a worker's, by name; the whole vector as "x" where the task names no tensors.

        UserError while a run goes on, for a failed one, and for models that were not recorded.
        """
        return final_model(self.path, worker).tensors

    def close(self):
        """Close the file; what was not read before cannot be read any more."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        return f"{self.path}, {self.data.attrs['status']}\n{self.data!r}"

    def _repr_html_(self):
        return self.data._repr_html_()

    def _node(self, name):
        if name not in self.data.children:
            raise UserError(f"{self.path}: a simulation of time alone has no {name}")
        return self.data[name].to_dataset()
