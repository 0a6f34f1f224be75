"""Small helpers that know nothing of networks: the terminal, files, clocks, ranks, signals."""
