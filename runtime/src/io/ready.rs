//! What a task waits for, and what it found: directions of a socket.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

macro_rules! directions {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            /// Reading.
            pub const READABLE: $name = $name(1);
            /// Writing.
            pub const WRITABLE: $name = $name(2);

            /// Whether reading is among them.
            pub const fn is_readable(self) -> bool {
                self.0 & Self::READABLE.0 != 0
            }

            /// Whether writing is among them.
            pub const fn is_writable(self) -> bool {
                self.0 & Self::WRITABLE.0 != 0
            }
        }

        impl BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match (self.is_readable(), self.is_writable()) {
                    (true, true) => "READABLE | WRITABLE",
                    (true, false) => "READABLE",
                    (false, true) => "WRITABLE",
                    (false, false) => "EMPTY",
                })
            }
        }
    };
}

directions! {
    /// What to wait for: at least one direction.
    ///
    /// ```
    /// use demi::io::Interest;
    /// let both = Interest::READABLE | Interest::WRITABLE;
    /// assert!(both.is_readable() && both.is_writable());
    /// ```
    Interest
}

directions! {
    /// What can be done without waiting.
    Ready
}

impl Ready {
    /// Nothing.
    pub const EMPTY: Ready = Ready(0);

    /// Whether nothing can be done.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitAnd<Interest> for Ready {
    type Output = Ready;
    fn bitand(self, of: Interest) -> Ready {
        Ready(self.0 & of.0)
    }
}
