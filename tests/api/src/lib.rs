//! Scenarios against a real API server: the files in `tests/`.
