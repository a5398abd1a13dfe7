//! Telling of a transport's errors: each kind once, so that a device that is gone does not fill a log; and of the one that
//! leaves a program without any transport.

use core::cell::RefCell;
use std::io;
use std::process;

/// Ends a program whose runtime cannot be made.
#[cold]
pub(crate) fn end_program(error: &io::Error) -> ! {
    eprintln!("demi: {error}");
    process::exit(1);
}

/// Remembers what was told last.
#[derive(Default)]
pub(crate) struct Failure {
    last: RefCell<String>,
    quiet: bool,
}

impl Failure {
    pub(crate) fn new(quiet: bool) -> Self {
        Failure { last: RefCell::default(), quiet }
    }

    /// Writes one line to standard error, unless it is what was told last.
    pub(crate) fn tell(&self, error: &io::Error) {
        let text = error.to_string();
        let mut last = self.last.borrow_mut();
        if *last != text {
            if !self.quiet {
                eprintln!("demi: transport failed: {text}");
            }
            *last = text;
        }
    }

    /// What was told last; empty: nothing.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn last(&self) -> String {
        self.last.borrow().clone()
    }
}
