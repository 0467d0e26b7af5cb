//! Renews permits while they are held.
