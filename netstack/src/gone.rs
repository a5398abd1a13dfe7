//! Why a stack's device is gone: said once by the device, told to every socket from then on.
//!
//! Owns the words alone. A device that is gone does not come back, so neither does anything that was open over it.

use std::io;

/// The error that ended a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    kind: io::ErrorKind,
    message: String,
}

impl Gone {
    /// What `error`, which came from the device, says.
    pub(crate) fn new(error: &io::Error) -> Gone {
        Gone { kind: error.kind(), message: error.to_string() }
    }

    /// The error anew: whoever waits gets one of its own.
    #[cold]
    pub(crate) fn to_error(&self) -> io::Error {
        io::Error::new(self.kind, self.message.clone())
    }
}
