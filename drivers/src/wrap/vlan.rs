//! One VLAN of a device (IEEE 802.1Q): frames of that VLAN alone arrive, without their tag, and frames leave with it.
//!
//! Owns nothing but the tag: memory, rings and descriptors are the device's below. A stack knows nothing of VLANs, so what
//! does not use one pays nothing. What the device computes by itself is found behind the tag; segmentation is not offered,
//! since devices differ in whether they look past a tag for the headers to repeat.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use smallvec::SmallVec;

use crate::device::{Capabilities, Device, DeviceStats, Offload, RxFrame, TxQueue};
use crate::mem::{Buf, Pool};
use crate::time::Instant;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 4;
/// Bytes of both stations' addresses, which stand before the tag.
const ADDRESS_BYTES: usize = 12;
/// Type of a tagged frame (802.1Q §9.4).
const TPID: [u8; 2] = [0x81, 0x00];
/// Frames that have their tag and wait for the device.
const QUEUE_FRAMES: usize = 256;

/// Which VLAN, and how urgent what is sent there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanConfig {
    /// Its number: 1 to 4,094.
    pub id: u16,
    /// Priority code point of the frames that are sent, 0 to 7 (802.1Q §6.9.3); 0 is best effort.
    pub priority: u8,
}

/// One VLAN of a device.
pub struct Vlan {
    inner: Box<dyn Device>,
    name: String,
    capabilities: Capabilities,
    /// Type, priority and number, as they stand in a frame.
    tag: [u8; TAG_BYTES],
    out: TxQueue,
    received: Vec<RxFrame>,
    /// Frames of other VLANs or of none, and such as found no memory.
    rx_dropped: u64,
    tx_dropped: u64,
}

impl Vlan {
    /// The VLAN `config` of `device`.
    ///
    /// # Errors
    /// `InvalidInput` for a number that no VLAN has, or a priority above 7.
    pub fn new(device: Box<dyn Device>, config: VlanConfig) -> io::Result<Vlan> {
        let VlanConfig { id, priority } = config;
        if !(1..=4094).contains(&id) || priority > 7 {
            let message =
                format!("vlan {id}, priority {priority}: write a VLAN of 1 to 4094, a priority of 0 to 7");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut capabilities = device.capabilities().clone();
        capabilities.tso_max_bytes = 0;
        let [a, b] = (u16::from(priority) << 13 | id).to_be_bytes();
        Ok(Vlan {
            name: format!("{}.{id}", device.name()),
            capabilities,
            tag: [TPID[0], TPID[1], a, b],
            out: TxQueue::new(QUEUE_FRAMES),
            received: Vec::new(),
            rx_dropped: 0,
            tx_dropped: 0,
            inner: device,
        })
    }

    /// Whether a frame is of this VLAN, whatever its priority.
    fn is_ours(&self, frame: &[u8]) -> bool {
        let tag = frame.get(ADDRESS_BYTES..).and_then(<[u8]>::first_chunk::<TAG_BYTES>);
        tag.is_some_and(|tag| tag[..2] == TPID && (tag[2] ^ self.tag[2]) & 0x0f == 0 && tag[3] == self.tag[3])
    }

    /// The frame without its tag.
    fn untag(&self, frame: Buf) -> Option<Buf> {
        let mut frame = match frame.try_into_mut() {
            Ok(own) => own,
            Err(shared) => {
                let mut copy = self.inner.pool().alloc(shared.len())?;
                copy.put_slice(&shared);
                copy
            }
        };
        frame.copy_within(..ADDRESS_BYTES, TAG_BYTES);
        frame.advance(TAG_BYTES);
        Some(frame.freeze())
    }

    /// Puts the tag into a frame to be sent; `false` when there is no memory for it.
    fn tag(&mut self, mut parts: SmallVec<[Buf; 4]>, offload: Offload) -> bool {
        let Some(head) = parts.first_mut() else { return true };
        let Some(addresses) = head.first_chunk::<ADDRESS_BYTES>().copied() else { return true };
        let mut front = [0; ADDRESS_BYTES + TAG_BYTES];
        front[..ADDRESS_BYTES].copy_from_slice(&addresses);
        front[ADDRESS_BYTES..].copy_from_slice(&self.tag);
        // What the device is to do begins behind the tag.
        let shift = TAG_BYTES as u16;
        let mut offload = offload;
        offload.header_bytes += shift;
        if let Some(checksum) = &mut offload.checksum {
            checksum.start += shift;
        }
        head.advance(ADDRESS_BYTES);
        if let Some(whole) = head.with_header(front.len(), |bytes, _| bytes.copy_from_slice(&front)) {
            *head = whole;
            let mut parts = parts.into_iter();
            if let Some(head) = parts.next() {
                self.out.push_parts(head, parts, offload);
            }
            return true;
        }
        // Somebody else looks at the headers: the tag gets a slot of its own, or all of the frame a new one.
        let joins = parts.len() + 1 > self.capabilities.max_parts;
        let room = if joins { parts.iter().map(|part| part.len()).sum() } else { 0 };
        let Some(mut slot) = self.inner.pool().alloc(front.len() + room) else { return false };
        slot.put_slice(&front);
        if joins {
            for part in &parts {
                slot.put_slice(part);
            }
            parts.clear();
        }
        self.out.push_parts(slot.freeze(), parts, offload);
        true
    }
}

impl Device for Vlan {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        if !self.out.is_empty() {
            self.inner.tx_burst(now, &mut self.out)?;
        }
        let before = into.len();
        let mut received = std::mem::take(&mut self.received);
        let result = self.inner.rx_burst(now, &mut received, max);
        for RxFrame { buf, checksum, gro_bytes } in received.drain(..) {
            let untagged = if self.is_ours(&buf) { self.untag(buf) } else { None };
            match untagged {
                Some(buf) => into.push(RxFrame { buf, checksum, gro_bytes }),
                None => self.rx_dropped += 1,
            }
        }
        self.received = received;
        result.map(|_| into.len() - before)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(front) = queue.front() {
            if self.out.room() == 0 {
                self.inner.tx_burst(now, &mut self.out)?;
                if self.out.room() == 0 {
                    return Ok(taken);
                }
            }
            let (offload, mut parts) = (front.offload, SmallVec::new());
            queue.pop_with(|part| parts.push(part));
            taken += 1;
            if !self.tag(parts, offload) {
                self.tx_dropped += 1;
            }
        }
        if !self.out.is_empty() {
            self.inner.tx_burst(now, &mut self.out)?;
        }
        Ok(taken)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.inner.set_addresses(addresses)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn max_wait(&self) -> Option<Duration> {
        self.inner.max_wait()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.inner.stats();
        stats.rx_dropped += self.rx_dropped;
        stats.tx_dropped += self.tx_dropped;
        stats
    }
}

impl fmt::Debug for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vlan").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ChecksumOffload;
    use crate::wire::{Wire, WireConfig, WireEnd};

    const CONFIG: VlanConfig = VlanConfig { id: 0x123, priority: 5 };

    fn pair() -> (Vlan, WireEnd) {
        let mut ends = Wire::new(1, WireConfig::default()).unwrap().into_iter();
        (Vlan::new(Box::new(ends.next().unwrap()), CONFIG).unwrap(), ends.next().unwrap())
    }

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], rest].concat()
    }

    fn sent(vlan: &mut Vlan, other: &mut WireEnd, parts: Vec<Buf>, offload: Offload) -> Vec<u8> {
        let mut queue = TxQueue::new(8);
        let mut parts = parts.into_iter();
        queue.push_parts(parts.next().unwrap(), parts, offload);
        assert_eq!(vlan.tx_burst(Instant::ZERO, &mut queue).unwrap(), 1);
        let mut got = Vec::new();
        assert_eq!(other.rx_burst(Instant::ZERO, &mut got, 8).unwrap(), 1);
        got[0].buf.to_vec()
    }

    #[test]
    fn frames_leave_with_the_tag_however_they_lie_in_memory() {
        let (mut vlan, mut other) = pair();
        let plain = frame(&[8, 0, 1, 2, 3, 4]);
        let tagged = frame(&[0x81, 0, 0xa1, 0x23, 8, 0, 1, 2, 3, 4]);
        let pool = vlan.pool().clone();
        let whole = pool.copy_from_slice(&plain).unwrap();
        let kept = whole.slice(14, 4);
        let in_two = vec![whole.slice(0, 15), whole.slice(15, 3)];
        assert_eq!(sent(&mut vlan, &mut other, in_two, Offload::default()), tagged, "shared");
        drop((whole, kept));
        let own = pool.copy_from_slice(&plain).unwrap();
        assert_eq!(sent(&mut vlan, &mut other, vec![own], Offload::default()), tagged, "its own");
        vlan.capabilities.max_parts = 1;
        let own = pool.copy_from_slice(&plain).unwrap();
        let kept = own.clone();
        assert_eq!(sent(&mut vlan, &mut other, vec![own], Offload::default()), tagged, "copied");
        drop(kept);
        assert_eq!(pool.stats().slots_out, 0);
    }

    #[test]
    fn what_the_device_is_to_do_is_shifted_behind_the_tag() {
        let (mut vlan, _other) = pair();
        let own = vlan.pool().copy_from_slice(&frame(&[8, 0, 1, 2, 3, 4])).unwrap();
        let checksum = Some(ChecksumOffload { start: 34, offset: 16 });
        let offload = Offload { checksum, header_bytes: 54, ..Offload::default() };
        vlan.tag(SmallVec::from_iter([own]), offload);
        let front = vlan.out.front().unwrap();
        assert_eq!(front.offload.checksum, Some(ChecksumOffload { start: 38, offset: 16 }));
        assert_eq!(front.offload.header_bytes, 58);
    }

    #[test]
    fn frames_of_this_vlan_alone_arrive_and_without_their_tag() {
        let (mut vlan, mut other) = pair();
        let from_other = |rest: &[u8]| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], rest].concat();
        let mut queue = TxQueue::new(8);
        let ours = from_other(&[0x81, 0, 0x01, 0x23, 8, 0, 1, 2, 3, 4]);
        let urgent = from_other(&[0x81, 0, 0xf1, 0x23, 8, 0, 5]);
        let others: [&[u8]; 4] =
            [&[8, 0, 1, 2], &[0x81, 0, 0x02, 0x23, 8, 0], &[0x81, 0, 0, 0, 8, 0], &[0x81, 0]];
        for bytes in others.iter().map(|rest| from_other(rest)).chain([ours, urgent]) {
            queue.push(other.pool().copy_from_slice(&bytes).unwrap(), Offload::default());
        }
        other.tx_burst(Instant::ZERO, &mut queue).unwrap();
        let mut got = Vec::new();
        assert_eq!(vlan.rx_burst(Instant::ZERO, &mut got, 8).unwrap(), 2);
        assert_eq!(got[0].buf.to_vec(), from_other(&[8, 0, 1, 2, 3, 4]));
        assert_eq!(got[1].buf.to_vec(), from_other(&[8, 0, 5]));
        assert_eq!(vlan.stats().rx_dropped, 4);
    }

    #[test]
    fn a_number_that_no_vlan_has_is_refused() {
        for (id, priority) in [(0, 0), (4095, 0), (7, 8)] {
            let end = Wire::new(1, WireConfig::default()).unwrap().remove(0);
            let error = Vlan::new(Box::new(end), VlanConfig { id, priority }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("1 to 4094"));
        }
    }
}
