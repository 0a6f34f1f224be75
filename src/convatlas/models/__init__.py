"""Architectures as plain ``torch.nn.Module``s, one file each; they know nothing of Lightning."""
