"""One command that shows on this machine's GPUs that training is right, and how fast it is."""
