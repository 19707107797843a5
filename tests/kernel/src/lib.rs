//! Nothing but a home for the scenarios in `tests/`, which boot virtual machines with Debian's stock kernels.
