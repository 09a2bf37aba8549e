"""What work will need before it starts: memory, time and disk, and whether the machines have it (docs/planning.md)."""
