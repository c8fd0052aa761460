"""A plain training loop of PyTorch, wrapped, that does what runs with [task] kind = "torch" do: python FILE TABLES.json."""

import json
import sys
from pathlib import Path

import torch

import coopmpi.torch
from coopmpi import config, registry
from coopmpi.bridges.torch.problem import seed_of
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def trained(name, tables, stop_at=None, state=None):
    """Train to the end, or up to a step: (module, optimiser, wrapped loop). state: what (loop, optimiser) had at a step."""
    problem = assemble(config.resolve(tables), Solo()).driver.task.problem
    module = registry.load_object(tables["task"]["module"], "")()
    keys = dict(tables["optimizer"])
    optimizer = OPTIMIZERS[keys.pop("kind", "sgd")](module.parameters(), **({"lr": 0.1} | keys))
    known = {key: tables[key] for key in ("seed", "deterministic", "period", "mixing", "compress", "algorithm") if key in tables}
    torch.nn.utils.vector_to_parameters(torch.from_numpy(problem.initial()), module.parameters())
    loop = coopmpi.torch.wrap(module, optimizer, steps=tables["steps"], output=None if stop_at else f"{name}.h5", **known)
    if state:
        loop.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    for k in range(loop.done, stop_at or tables["steps"]):
        loop.zero_grad()
        torch.manual_seed(seed_of(0, loop.worker, k))
        inputs, targets = problem.data.train.batch(problem._batches.indices(k)[loop.worker])
        loss = torch.nn.functional.cross_entropy(module(inputs), targets)
        loss.backward()
        loop.step(loss)
    return module, optimizer, loop


def main(path):
    for name, tables in json.loads(Path(path).read_text(encoding="utf-8")).items():
        parts = name.startswith("parts-")
        state = None
        if parts:
            _, optimizer, loop = trained(name, tables, stop_at=13)
            state = loop.state_dict(), optimizer.state_dict()
            loop.finish()
        module, _, loop = trained(name, tables, state=state)
        with loop.mean_model():
            mean = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        loop.finish()
        after = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        assert torch.equal(mean, after) and all(tensor.is_leaf for tensor in module.parameters())
        if loop.worker == 0:
            torch.save(module.state_dict(), f"{name}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
