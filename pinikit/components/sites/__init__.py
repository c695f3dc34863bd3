"""Sites: where noise enters."""
