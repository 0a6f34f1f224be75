"""Sources of images: folders, arrays, tar shards, generated scenes."""
