//! Canonical requests, and the keys and digests made of them.
