r"""Several processes that train one model: each its slice of a batch, one gradient.

Every process draws the same global batch, times and noise, takes the rows of its rank, and the
gradients are averaged,

.. math:: g = \frac1W \sum_{w=1}^W \nabla\,\frac{W}{B}\!\!\sum_{b\,\equiv\,w}\! L_b
            = \nabla\,\frac1B\sum_{b=1}^B L_b ,

which is the gradient of the whole batch. Optimisers see the same numbers everywhere, so the
weights stay equal without being sent. Started by ``torchrun`` or ``accelerate launch``; alone, a
process is the group of one and nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from payoff.errors import UserError


class ProcessGroup:
    """The processes of one training run, as their environment describes them.

    Args:
        device: of the model; its back end sends the gradients.

    Attributes:
        rank: number of this process, 0 … world − 1.
        world: number of processes.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank, self.world = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if not torch.distributed.is_initialized():
                cpu = torch.device(device).type == "cpu"
                torch.distributed.init_process_group("gloo" if cpu else "nccl")
            self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the first one's weights, in place."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor.data, 0)

    def check(self, batch_size: int) -> None:
        """Raise a UserError if a batch cannot be shared equally."""
        if batch_size % self.world:
            raise UserError(
                f"batch_size {batch_size} cannot be shared equally by {self.world} processes: "
                f"choose a multiple of {self.world}"
            )

    def local_rows(self, rows: Tensor) -> Tensor:
        """This process's rows of a global batch."""
        return rows[self.rank :: self.world]

    def average_gradients(
        self, parameters: Iterable[nn.Parameter], loss: Tensor, stop: bool
    ) -> tuple[Tensor, bool]:
        """Average the gradients in place; the mean loss (), and whether any process wants to stop.

        One message: the gradients end to end, then the loss and the wish.
        """
        if self.world == 1:
            return loss, stop
        grads = [p.grad for p in parameters if p.grad is not None]
        ends = torch.stack([loss.float(), loss.new_tensor(float(stop), dtype=torch.float32)])
        message = torch.cat([*(g.flatten().float() for g in grads), ends])
        torch.distributed.all_reduce(message)
        message /= self.world
        start = 0
        for grad in grads:
            grad.copy_(message[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
        return message[-2], bool(message[-1] > 0)
