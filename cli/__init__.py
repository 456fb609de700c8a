"""What every script shares: its flags, how it ends, files written whole or not at all."""
