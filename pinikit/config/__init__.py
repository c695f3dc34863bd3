"""Configuration: schema, reading, checking, identity. Imports no torch."""
