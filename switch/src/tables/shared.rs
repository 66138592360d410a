//! Parts that several snapshots have.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A part of the tables. One that stays as it was is the same memory in the next snapshot: it is not made again, and the caches of
/// the workers' cores still have it. Whoever writes to a part that others have too writes to a copy.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// One that nobody else has.
    pub fn new(part: T) -> Self {
        Self(Arc::new(part))
    }

    /// True for the same memory.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: PartialEq> Shared<T> {
    /// Takes the other's memory where that says the same.
    pub(super) fn keep(&mut self, before: &Self) {
        if **self == **before {
            *self = before.clone();
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || **self == **other
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_too_is_not_written_to() {
        let mut one = Shared::<Vec<u32>>::default();
        one.push(1);
        let mut other = one.clone();
        assert!(one.is(&other));
        other.push(2);
        assert!(!one.is(&other));
        assert_eq!((one.as_slice(), other.as_slice()), (&[1][..], &[1, 2][..]));
    }
}
