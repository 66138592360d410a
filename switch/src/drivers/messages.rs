//! How many messages are taken from a socket at a time.

use crate::port::BURST;

/// What one call has brought from a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    /// Whether they became packets or came to nothing.
    pub(super) messages: usize,
    /// There may be more.
    pub(super) more: bool,
}

impl Took {
    pub(super) const NOTHING: Self = Self { messages: 0, more: false };
}

/// Receives until nothing is left, or as many messages have come. All of them count: else somebody who sends what comes to nothing as
/// fast as it is taken would have the worker for himself.
pub(super) fn take_up_to(most: usize, mut receive: impl FnMut(usize) -> Took) {
    let mut left = most;
    while left > 0 {
        let Took { messages, more } = receive(left);
        if !more {
            return;
        }
        left = left.saturating_sub(messages.max(1));
    }
}

/// How many messages a socket is asked for next: to ask for many costs time even if there are none.
pub(super) struct Ask(usize);

impl Ask {
    /// When nothing has come.
    const FEW: usize = 4;
    pub(super) const NEW: Self = Self(Self::FEW);

    #[inline]
    pub(super) fn messages(&self) -> usize {
        self.0
    }

    /// So many have come of those that were asked for.
    #[inline]
    pub(super) fn learn(&mut self, came: usize) {
        self.0 = (2 * came).clamp(Self::FEW, BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_ends_though_messages_never_do() {
        for each in [0, 1, 5, 64] {
            let (mut calls, mut taken) = (0, 0);
            take_up_to(64, |most| {
                (calls, taken) = (calls + 1, taken + each.min(most));
                Took { messages: each.min(most), more: true }
            });
            assert!(calls <= 64 && taken <= 64, "{calls} calls, {taken} messages");
        }
        let mut asked = Vec::new();
        take_up_to(64, |most| {
            asked.push(most);
            Took { messages: 4, more: asked.len() < 3 }
        });
        assert_eq!(asked, [64, 60, 56]);
    }
}
