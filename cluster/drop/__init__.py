"""California's DROP: turns a batch of hashed identifiers into deletion requests, and these into codes (docs/drop.md)."""
