"""Which ranks this process is one of."""

from coopmpi.drivers.mpi import launch


def join(survive=False):
    """The world of the MPI job that this process was started into, or one of its own. survive: it outlives the loss of ranks."""
    if launch.launched_ranks()[1]:
        from coopmpi.drivers.mpi.world import connect

        return connect(survive)
    from coopmpi.drivers.solo import Solo

    launch.require_launcher()
    return Solo()
