"""What a result file consists of: names, types, units."""

import numpy as np

FORMAT, FORMAT_VERSION = "coopmpi-run", 1
STATUS = "S16"  # fixed width: rewritten in place while readers look on

# step record: name -> (dtype, per worker?, units, description)
TRAIN = {
    "wall_time": ("f8", False, "s", "since the start of training, without evaluation and writing"),
    "tau": ("i4", False, "1", "period in force, in steps"),
    "loss": ("f4", True, "1", "mini-batch loss of each worker"),
    "compute_time": ("f4", True, "s", "gradient computation of the rank that hosts the worker"),
    "wait_time": ("f4", True, "s", "blocked on communication, on the rank that hosts the worker"),
    "bytes_sent": ("f8", True, "B", "sent by each worker in this step, as with one rank per worker; "
                                    "an average counts as a ring all-reduce"),
}
# ... and what is added or means something else when virtual clocks measure
SIMULATED = {
    "virtual_time": ("f8", False, "s", "latest of the workers' virtual clocks"),
    "compute_time": ("f8", True, "s", "gradient computation of the worker, virtual"),
    "wait_time": ("f8", True, "s", "worker blocked on communication, virtual"),
}
EVAL = {
    "loss": "loss of the mean model on held-out data (classify, regress) or the objective (quadratic)",
    "train_loss": "loss of the mean model on training data: as many samples as are held out",
    "accuracy": "share of correct predictions of the mean model on held-out data",
    "consensus": "(1/m) sum_i ||x_i - mean||^2",
    "wall_time": "since the start of training, without evaluation and writing",
}
# name -> (units, description)
ROUNDS = {
    "posted": ("s", "when rank 0 posted a transfer, since the start of training"),
    "finished": ("s", "when its result was there and used, since the start of training"),
    "waited": ("s", "how long the transfer blocked rank 0 between the two"),
    "hidden": ("1", "share of the time between the two in which it did not"),
    "bytes": ("B", "sent in it by the workers of rank 0, counted as in /train/bytes_sent"),
}
EVENT = np.dtype([("step", "i8"), ("wall_time", "f8"), ("kind", "S32"), ("text", "S256")])
STATE = "state"


def make_state(file, slots, workers, dimension, dtype):
    """Room for every slot, a row per worker or a few for all; nothing is allocated before it is written."""
    state = file.create_group(STATE)
    state.attrs["step"] = np.int64(0)  # steps done when it was written; 0: never
    for slot in slots:
        if slot.kind != "ticket":
            rows = slot.rows if slot.kind == "replica" else workers
            columns = slot.columns or dimension
            data = state.create_dataset(slot.name, (rows, columns), dtype, chunks=(1, columns) if rows else None)
            data.attrs.update({"units": "1", "description": slot.purpose})
