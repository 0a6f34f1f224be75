"""Classification networks, one file each."""
