"""Searching for hyper-parameters: trials, each an ordinary run, that independent workers share out by a storage."""
