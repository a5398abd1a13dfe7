//! Wire formats: checked views over bytes, and writers of the same bytes. Nothing here keeps state or knows a socket.

pub mod checksum;
pub mod tcp;
