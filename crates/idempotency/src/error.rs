//! What can go wrong, sorted by what the caller does next.
