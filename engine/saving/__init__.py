"""What a run leaves in its folder, and how it continues from there."""
