"""What a run that goes on may change, and whether it can go on."""

import tomllib
from pathlib import Path
from typing import NamedTuple

from coopmpi import config
from coopmpi.errors import UserError
from coopmpi.record.checkpoint import checkpoints, require_checkpoint
from coopmpi.record.reader import open_run, status_of

# keys and tables that may be others than before; all else decides what the numbers so far mean
MAY_CHANGE = ("steps", "epochs", "stop", "record.eval_every", "record.final", "checkpoint", "optimizer.lr", "sinks", "device",
              "device_buffers")


def continued(result, overrides=()) -> dict:
    """The tables of the run in a result file, with `overrides` (table.key=value) applied.

    UserError for a key that may not change, for a finished run without more steps, and where there is no checkpoint.
    """
    with open_run(result) as file:
        if file.attrs["mode"] != "train":
            raise UserError(f"{result}: a simulation is not resumed, since the virtual clocks are not saved; simulate again")
        run, status = str(file.attrs.get("run", "")), status_of(file)
        text, done = file["config"].asstr()[()], len(file["train/step"])
        at_target = any(step == done and kind == b"target" for step, _, kind, _ in file["events"][:])
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{result}: damaged: the run description in it is not valid TOML: {error}") from error
    targets = dict(tables.get("stop", {}))
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE):
            raise UserError(f"--set {override}: a run that goes on keeps its {key}; allowed to change: {', '.join(MAY_CHANGE)}")
        config.set_key(tables, override)
    if any(override.partition("=")[0].strip() == "epochs" for override in overrides):
        tables.pop("steps")
    if status == "finished":
        if tables.get("steps", done + 1) <= done:
            raise UserError(f"{result}: finished after {done} steps; give more of them to extend it: --set steps={2 * done}")
        if at_target and tables.get("stop", {}) == targets:
            raise UserError(f"{result}: finished at its target ({_listed(targets)}) after {done} steps; give another to "
                            f"extend it, --set stop.{next(iter(targets))}=..., or none: --set stop={{}}")
        if not tables["checkpoint"].get("keep_final"):
            raise UserError(f"{result}: finished, and its state was not kept; a run that is to be extended needs "
                            "[checkpoint] keep_final = true")
    require_checkpoint(result, run)
    return tables


def _listed(targets):
    return ", ".join(f"{name} = {target:g}" for name, target in targets.items())


class Standing(NamedTuple):
    """What has become of a result file so far."""

    status: str  # "missing", "running" (or cut off), "finished", "interrupted" or "failed"
    step: int = 0  # of its newest checkpoint, 0 for none

    @property
    def done(self) -> bool:
        return self.status == "finished"

    @property
    def by_accident(self) -> bool:
        """Did it end although nobody stopped it?"""
        return self.status in ("missing", "running")


def standing(result) -> Standing:
    """The Standing of a result file."""
    if not Path(result).exists():
        return Standing("missing")
    with open_run(result) as file:
        run, status = str(file.attrs.get("run", "")), status_of(file)
    newest = next(checkpoints(result, run), None)
    return Standing(status, newest.step if newest else 0)
