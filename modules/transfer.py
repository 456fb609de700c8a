"""Bring tensors to the device where they are computed with."""


def to_device(tensor, device):
    """Copy a tensor to a device, on CUDA without waiting until it is there.

    On MPS such a copy takes garbage if its source, a temporary tensor, is freed before it is done (pytorch issues
    139550 and 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
