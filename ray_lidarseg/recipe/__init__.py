"""A run as one frozen, validated model: schema, loading with overrides, and the ontology of own data."""
