"""A small network that learns on all nodes of a job, with torch.distributed.

Runs as one process too. It takes what Trainyard tells a trainer (EPOCHS, BATCH_SIZE, LEARNING_RATE, RESUME_FROM) and
what torchrun or Trainyard tells each process of a gang (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK). The
first process alone reports and saves. docs/gangs.md says how it is submitted.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from trainyard_sdk import TrainerSDK

SEED = 7


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """The same everywhere; each process takes its share of each batch."""
    draw = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(256, 8, generator=draw)
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def train(device: torch.device, rank: int, world: int, sdk: TrainerSDK | None) -> None:
    epochs = int(os.environ.get("EPOCHS", "5"))
    batch_size = int(os.environ.get("BATCH_SIZE", "32"))
    torch.manual_seed(SEED)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(device)
    model = DistributedDataParallel(network) if world > 1 else network
    steps = torch.optim.SGD(model.parameters(), lr=float(os.environ.get("LEARNING_RATE", "0.1")), momentum=0.9)
    done = 0
    if path := os.environ.get("RESUME_FROM"):
        # Every rank has it: each node brings it before the gang starts.
        kept = torch.load(path, map_location=device, weights_only=True)
        network.load_state_dict(kept["network"])
        steps.load_state_dict(kept["steps"])
        done = kept["epoch"]
    inputs, wanted = (part.to(device) for part in data())
    for epoch in range(done + 1, epochs + 1):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SEED + epoch))
        total = torch.zeros(1, device=device)
        for batch in order.split(batch_size):
            own = batch[rank::world].to(device)
            steps.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs[own]), wanted[own])
            loss.backward()
            steps.step()
            total += loss.detach() * len(own)
        if world > 1:
            dist.all_reduce(total)
        if sdk is None:
            continue
        last = os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")
        # Whole or not at all: it may be ended at any moment. And it has its name once its epoch is reported: who goes on
        # from it has all epochs before it in the curve.
        torch.save({"epoch": epoch, "network": network.state_dict(), "steps": steps.state_dict()}, last + ".part")
        sdk.report_progress(epoch, epochs, {"loss": total.item() / len(inputs)}, checkpoint_path=last)
        os.replace(last + ".part", last)


def main() -> None:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    print(f"rank {rank} of {world} on {os.environ.get('TRAINYARD_NODE')}, node {os.environ.get('NODE_RANK')}", flush=True)
    if rank == 0:
        with TrainerSDK() as sdk:
            sdk.report_started(total_epochs=int(os.environ.get("EPOCHS", "5")))
            train(device, rank, world, sdk)
            sdk.report_completed()
    else:
        train(device, rank, world, None)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
