"""The PyTorch side of benchmarks.models, run by an interpreter that has PyTorch.

Reads lines "FEATURES,HIDDEN...,CLASSES BATCH MODELS STEPS"; for each, makes STEPS steps of each of MODELS models,
one model after the other, and answers with a line.
"""

import sys

import torch


def steppers(sizes, batch, models):
    """For each model a function that makes one step of plain SGD."""
    loss = torch.nn.CrossEntropyLoss()
    for _ in range(models):
        layers = [torch.nn.Linear(sizes[0], sizes[1])]
        for fan_in, fan_out in zip(sizes[1:], sizes[2:]):
            layers += [torch.nn.ReLU(), torch.nn.Linear(fan_in, fan_out)]
        model = torch.nn.Sequential(*layers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        inputs, labels = torch.randn(batch, sizes[0]), torch.randint(sizes[-1], (batch,))

        def step(model=model, optimizer=optimizer, inputs=inputs, labels=labels):
            optimizer.zero_grad()
            loss(model(inputs), labels).backward()
            optimizer.step()

        yield step


torch.set_num_threads(1)
print(torch.__version__, flush=True)
made = {}
for line in sys.stdin:
    kind, _, count = line.rpartition(" ")
    if kind not in made:
        sizes, batch, models = kind.split()
        made[kind] = list(steppers([int(size) for size in sizes.split(",")], int(batch), int(models)))
    for _ in range(int(count)):
        for step in made[kind]:
            step()
    print("done", flush=True)
