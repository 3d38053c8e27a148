"""The demonstration: lose a keeper, lose the primary's disk, get every acknowledged commit back."""
