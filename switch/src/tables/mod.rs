//! What the dataplane looks up.
