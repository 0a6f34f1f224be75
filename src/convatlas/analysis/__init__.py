"""Analysis of networks: layers, counts, receptive fields, and pictures of them."""
