//! Nothing but a home for the scenarios in `tests/`, which need a whole cluster.
