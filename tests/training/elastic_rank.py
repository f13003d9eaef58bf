"""One of three processes that train recipes as one, as two and as three workers: `RANK PORT FOLDER RECIPE …`."""

import os
import sys

import torch
import torch.distributed as dist

from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import Trainer, make_plan


def main(rank: int, port: int, folder: str, recipes: list[str]) -> None:
    """Trains; a worker keeps its parameters in ``FOLDER/NAME-WORKERS-RANK.pt``."""
    torch.set_num_threads(1)
    for world in range(3, rank, -1):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port + world))
        dist.init_process_group("gloo", rank=rank, world_size=world)
        for recipe in map(load_recipe, recipes):
            plan = make_plan(recipe, RunFolder(f"{folder}/{recipe.name}-{world}"))
            trainer = Trainer(plan, Ranks(rank, world), torch.device("cpu"), keep=lambda step, content: None)
            trainer.run()
            parameters = {name: value.detach() for name, value in trainer.loop.method.named_parameters()}
            torch.save(parameters, f"{folder}/{recipe.name}-{world}-{rank}.pt")
        dist.destroy_process_group()
    os._exit(0)  # no interpreter end: a thread of gloo that DDP started may ask it for the lock then, and aborts


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
