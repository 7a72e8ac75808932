//! Sealing and removing, as the two tasks do it.
