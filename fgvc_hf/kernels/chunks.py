"""How much is computed at a time, by device. It changes speed and memory, and no result."""

import torch


CHUNK_BYTES = {"cpu": 16 * 2**20, "accelerator": 256 * 2**20}  # scores held at a time; on a CPU they stay in its cache


def limit_for(features: torch.Tensor, limits: dict[str, int]) -> int:
    """The limit for the device of these features, of one for a CPU and one for accelerators."""
    return limits["cpu" if features.device.type == "cpu" else "accelerator"]


__all__ = ["CHUNK_BYTES", "limit_for"]
