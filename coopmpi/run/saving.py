"""Models and state on their way to the result file, and back; every rank takes part."""


def save_models(driver, x, feed):
    """The models x (b, d) of all workers, and their mean."""
    mean = driver.device.to_host(driver.mean(x))[0]
    rows = driver.world.collect(driver.device.to_host(x), driver.rank_layout)
    for worker, row in enumerate(rows):
        feed.final(worker, row)
    feed.final_mean(mean)


def save_state(driver, states, step, writer):
    """All slots of the states, as they are after `step` steps, for a run that goes on later."""
    for slot, values in _slots(states):
        rows = values if slot.kind == "host" else driver.device.to_host(values)
        if slot.kind in ("replica", "host"):
            rows = rows if driver.world.rank == 0 else ()
        else:
            rows = driver.world.collect(rows[:len(driver.hosted)], driver.rank_layout)
        for place, row in enumerate(rows):
            writer.state(slot.name, place, row)
    if writer is not None:
        writer.state_complete(step)


def restore(driver, states, checkpoint):
    """Fill all slots from a coopmpi.record.checkpoint.Checkpoint."""
    for slot, values in _slots(states):
        owners = [*driver.hosted, *(driver.wiring.audience.remote if slot.kind == "memory" else ())]
        rows = checkpoint.rows(slot, owners)
        values[:] = rows if slot.kind == "host" else driver.device.asarray(rows)


def _slots(states):
    """(slot, its array) of all that are saved."""
    return [(slot, getattr(state, slot.name)) for state in states for slot in state.slots if slot.kind != "ticket"]
