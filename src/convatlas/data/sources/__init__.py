"""Where images come from: folders, arrays, tar shards, generated scenes."""
