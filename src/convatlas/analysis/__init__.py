"""What a network is made of: its layers, their counts and receptive fields, and pictures of them."""
