"""Move tensors to the device that computes with them."""


def to_device(tensor, device):
    """Copy a tensor to a device, on CUDA without waiting until it is there.

    On MPS a copy that is not waited for may read garbage: its source, a temporary tensor, may be freed first (pytorch
    issues 139550 and 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
