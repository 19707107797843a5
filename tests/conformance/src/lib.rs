//! What KMM documents, paragraph by paragraph: the files in `tests/conformance`.
