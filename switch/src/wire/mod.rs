//! Wire formats: for each a view over bytes and an owned form.
