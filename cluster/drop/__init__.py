"""California's DROP: a batch of hashed identifiers becomes deletion requests, and these become codes (docs/drop.md)."""
