"""A training loop of one's own in PyTorch, in which an algorithm of coopmpi takes the place of DistributedDataParallel."""

import atexit
import dataclasses
import sys
from contextlib import ExitStack, contextmanager

import msgspec
import numpy as np

from coopmpi import config as description
from coopmpi.drivers.join import join
from coopmpi.errors import CoopError, Interrupted, NumericalFailure, UserError, unknown
from coopmpi.run.assemble import assemble, together
from coopmpi.run.feed import Feed
from coopmpi.run.loop import Trainer
from coopmpi.run.saving import save_models, slots_of
from coopmpi.run.session import about, all_models
from coopmpi.run.watchdog import Watchdog
from coopmpi.tasks.problem import LONGEST
from coopmpi.tasks.torch import bridge

# of a run description
KEYS = ("seed", "deterministic", "period", "mixing", "compress", "record", "sinks")
ALIKE = (Interrupted, NumericalFailure)  # errors that all ranks raise at the same step


def wrap(model, optimizer, *, algorithm="local-sgd", steps: int | None = None, output=None, overwrite=False, **tables) -> "Loop":
    """Make this process a worker that trains an nn.Module together with the other ranks; `optimizer` does its local steps.

    algorithm: its name, or the table [algorithm]; steps: length of the run, where schedules of the algorithm ask for it;
    output: a result file, written as `coopmpi train` does; tables: KEYS of a run description, as period={"tau": 8}.
    All ranks begin with rank 0's numbers. UserError, on all ranks alike, for what cannot be.
    """
    for key in tables:
        if key not in KEYS:
            raise unknown("key", key, (*KEYS, "algorithm", "steps", "output", "overwrite"), "wrap: ")
    tables["algorithm"] = {"kind": algorithm} if isinstance(algorithm, str) else algorithm
    return Loop(model, optimizer, tables, steps, output, overwrite)


class Loop:
    """What `wrap` gives. In each step: zero_grad(), the loss of a batch, backward(), step(loss); at the end finish().

    worker, workers: the number of this process among so many, by which the data are to be split.
    """

    def __init__(self, model, optimizer, tables, steps, output, overwrite):
        self._world = world = join()
        self.worker, self.workers = world.rank, world.size
        self._open = None  # what is to be left at the end, once the run has begun
        self._ends_with_the_process()
        config = together(world, lambda: self._config(model, optimizer, tables, steps))
        self._assembly = assembly = assemble(config, world)
        self._problem, self._feed, self._output = assembly.driver.task.problem, Feed(), output
        if world.rank == 0 and output is not None:
            from coopmpi.record.writer import Writer

            self._feed = Feed(Writer(output, overwrite), assembly.config.sinks)
        shown = dataclasses.replace(assembly, config=_shown(assembly.config))
        together(world, lambda: self._feed.begin(about(shown, world)))
        self._trainer = Trainer(assembly, self._feed)
        self._step = None  # that has begun
        self._trainer.begin()
        self._show_own()
        self._open = ExitStack()
        self._open.enter_context(self._trainer.ballot)
        self._open.enter_context(Watchdog(assembly.driver))

    def _config(self, model, optimizer, tables, steps):
        """The run description with the user's module and optimiser in it."""
        own = bridge("coopmpi.torch.wrap").own
        config, task = description.resolve(tables), own.OwnTask(model)
        own.require_same_parameters(model, optimizer)
        self._binding, self._optimizer = task.binding, optimizer
        record = config.record
        if steps is None and not record.eval_every:
            record = msgspec.structs.replace(record, eval_every=100)
        return msgspec.structs.replace(
            config, task=task, optimizer=own.OwnOptimizer(optimizer, task.binding, self._bind), workers=self.workers,
            steps=steps or LONGEST, dtype=task.dtype, device="cpu", record=record)

    @property
    def _device(self):
        return self._assembly.driver.device

    @property
    def done(self) -> int:
        """Steps so far."""
        return self._trainer.done

    def zero_grad(self):
        """Begin a step: the module is the model at which the algorithm wants the gradient, and has none."""
        self._require_open()
        if self._step is None:
            if self._trainer.ended:
                raise UserError(f"steps = {self.done} were announced, and all are done: call finish()")
            step = self._trainer.step()
            with np.errstate(all="ignore"):
                self._bind(next(step).x[0])
            self._step = step
        self._optimizer.zero_grad()

    def step(self, loss):
        """End a step: the gradients that backward() has left are used, and what has to be communicated is.

        loss: of the batch, a tensor of one number or a float, which is recorded.
        Raises Interrupted after a signal and NumericalFailure after a loss that is not finite, on all ranks alike.
        """
        if self._step is None:
            raise UserError("step() needs a zero_grad() of the same wrapped loop before the loss is computed")
        step, self._step = self._step, None
        answer = self._problem.taken(loss)
        with np.errstate(all="ignore"):
            try:
                step.send(answer)
            except StopIteration:
                self._show_own()
            else:
                raise UserError(f"algorithm {self._assembly.config.algorithm.name} asks for several gradients in a step; a loop of "
                                "one's own gives one")
            if self._trainer.stopped:
                self._end()

    @contextmanager
    def mean_model(self):
        """A context in which the module holds the mean over all workers, buffers included; all ranks enter it."""
        self._require_between("mean_model()")
        with self._trainer.driver.pause():
            self._show_mean()
            try:
                yield
            finally:
                self._show_own()

    def state_dict(self) -> dict:
        """This rank's state, as tensors, without that of the optimiser; all ranks call it."""
        self._require_between("state_dict()")
        self._trainer.finish_transfers()
        return {"step": self.done} | bridge("state_dict()").export.tensors({slot.name: self._device.to_host(values)
                                                                               for slot, values in self._slots()})

    def load_state_dict(self, state: dict):
        """Go on from what state_dict() gave on the same rank of as many; before the first step."""
        self._require_between("load_state_dict()")
        if self.done:
            raise UserError(f"load_state_dict() comes before the first step; {self.done} are done")
        for slot, values in self._slots():
            found = state.get(slot.name)
            if found is None or tuple(found.shape) != values.shape:
                raise UserError(f"load_state_dict(): {slot.name!r} must be of shape {values.shape}, given "
                                f"{None if found is None else tuple(found.shape)}; algorithm, module and ranks must be the same")
        for slot, values in self._slots():
            values[...] = self._device.asarray(state[slot.name].numpy())
        self._trainer.go_on_from(int(state["step"]))
        self._show_own()

    def finish(self):
        """End the run; all ranks call it after as many steps. The module holds the mean model, in memory of its own."""
        self._require_between("finish()")
        self._trainer.end_here()
        self._end()

    # what becomes of the module
    def _bind(self, row):
        self._binding.bind_worker(row, self._trainer.own_state, 0)

    def _show_own(self):
        self._bind(self._trainer.state.x[0])

    def _show_mean(self):
        driver = self._assembly.driver
        self._means = [driver.mean(self._trainer.state.x), *driver.task.means(driver)]  # the views do not keep them alive
        self._binding.bind(*(mean[0] for mean in self._means))

    # the end
    def _end(self):
        """Close the run; the error that has stopped it, on all ranks alike."""
        trainer, status = self._trainer, "finished"
        try:
            trainer.end()
        except ALIKE as error:
            status = "interrupted" if isinstance(error, Interrupted) else "failed"
            if status == "failed":
                self._feed.drop_after(trainer.ballot.failed_at)
            self._feed.event(self.done, trainer.trained, status, str(error))
            raise
        else:
            if self._output is not None:
                save_models(self._assembly.driver, trainer.state.x, self._feed, all_models(self._assembly))
            self._show_mean()
            self._binding.release()
        finally:
            self._close(status)

    def _close(self, status):
        opened, self._open = self._open, None
        opened.close()
        self._feed.close(status)

    def _ends_with_the_process(self):
        """An error in the loop ends all ranks; it and a loop without finish() are told by the result."""
        before = sys.excepthook

        def on_error(kind, error, trace):
            sys.excepthook = before
            begun = self._open is not None
            if begun:
                self._close("failed")
            # before that and after the end, a CoopError is raised on all ranks alike
            if begun or not isinstance(error, CoopError):
                self._world.abort(error)
            if not isinstance(error, CoopError):
                before(kind, error, trace)
            elif self.worker == 0:
                print(f"coopmpi: {error}", file=sys.stderr, flush=True)

        def on_exit():
            if self._open:
                print("coopmpi: the loop ended without finish(): the run is not complete", file=sys.stderr, flush=True)
                try:
                    self._close("interrupted")
                except CoopError as error:
                    print(f"coopmpi: {error}", file=sys.stderr, flush=True)

        sys.excepthook = on_error
        atexit.register(on_exit)

    # what may be called when
    def _require_open(self):
        if self._open is None:
            raise UserError("the run is finished")

    def _require_between(self, call):
        self._require_open()
        if self._step is not None:
            raise UserError(f"{call} comes between two steps, after step(loss) and before zero_grad()")

    def _slots(self):
        return slots_of((self._trainer.state, self._trainer.own_state))


def _shown(config):
    """The configuration as the result file has it: tables in place of objects, no length where none is known."""
    steps = None if config.steps == LONGEST else config.steps
    return msgspec.structs.replace(config, task=config.task.table(), optimizer=config.optimizer.table(), steps=steps)
