//! What the switch's threads share.
