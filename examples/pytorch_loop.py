"""A training loop of one's own: coopmpi run -n 4 pytorch_loop.py"""

import torch
from pytorch_modules import Residual, digits
from torch.utils.data import DataLoader, DistributedSampler

import coopmpi.torch

EPOCHS = 10

torch.manual_seed(0)
model = Residual()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
trainer = coopmpi.torch.wrap(model, optimizer, algorithm="local-sgd", period={"tau": 8}, output="loop.h5", overwrite=True)

train, held_out = digits()
sampler = DistributedSampler(train, trainer.workers, trainer.worker, drop_last=True)
loader = DataLoader(train, batch_size=16, sampler=sampler, drop_last=True)
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    model.train()
    for batch, target in loader:
        trainer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch), target)
        loss.backward()
        trainer.step(loss)
    with trainer.mean_model(), torch.no_grad():
        model.eval()
        accuracy = (model(held_out.tensors[0]).argmax(1) == held_out.tensors[1]).double().mean()
    if trainer.worker == 0:
        print(f"epoch {epoch + 1}: {accuracy:.1%} of the held-out digits are right")
trainer.finish()
if trainer.worker == 0:
    torch.save(model.state_dict(), "model.pt")
