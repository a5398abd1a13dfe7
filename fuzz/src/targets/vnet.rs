//! The virtio header that comes with a frame from TAP or AF_PACKET, and the cutting of what it says was coalesced.

use crate::input::Input;

/// Ten bytes of header, then the frame.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut header = [0; 10];
    for byte in &mut header {
        *byte = input.u8();
    }
    let frame = input.rest();
    let cut = demi_drivers::fuzzing::vnet(&header, &frame[..frame.len().min(1700)]);
    let payload: usize = cut.iter().map(Vec::len).sum();
    assert!(payload <= frame.len() * (cut.len() + 1), "{payload} bytes out of {}", frame.len());
}
