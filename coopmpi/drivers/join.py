"""Work in the MPI job that this process was started into."""

from coopmpi.drivers.mpi import launch
from coopmpi.errors import CoopError


def join(survive=False):
    """The world of the MPI job, or one of its own for a process that no launcher started. survive: it outlives the loss of ranks."""
    if launch.launched_ranks()[1]:
        from coopmpi.drivers.mpi.world import connect

        return connect(survive)
    from coopmpi.drivers.solo import Solo

    launch.require_launcher()
    return Solo()


def on_this_rank(work, survive=False):
    """What work(world) gives. A CoopError is raised on all ranks alike; any other error, which one rank met alone, ends all."""
    world = join(survive)
    try:
        return work(world)
    except CoopError:
        raise
    except BaseException as error:
        world.abort(error)
        raise
