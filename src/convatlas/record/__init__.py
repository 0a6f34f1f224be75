"""What a run leaves behind, read by whatever looks at runs."""
