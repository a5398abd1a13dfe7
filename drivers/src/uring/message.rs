//! Several views sent as one message: the header and the list that the kernel reads, at an address that stays.
//!
//! Owns the views while the kernel sends them. Boxes are used again, so sending allocates nothing once it has warmed up.

use std::collections::VecDeque;

use crate::mem::Buf;
use crate::sockets::calls::empty_message;

/// Views in a message: enough for a burst of small replies, in 1 KiB of list.
const MAX_VIEWS: usize = 64;

/// What one `sendmsg` names.
pub(super) struct Message {
    header: libc::msghdr,
    list: [libc::iovec; MAX_VIEWS],
    bufs: Vec<Buf>,
    len: usize,
}

impl Message {
    /// For the submission entry. Valid until the message is scattered.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// Bytes of all views.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Messages that are not in use.
#[derive(Default)]
pub(super) struct Messages {
    #[expect(
        clippy::vec_box,
        reason = "the kernel reads a message where it lies, which must not be the vector"
    )]
    idle: Vec<Box<Message>>,
}

impl Messages {
    /// Takes views from the front of `queue`, as many as one message names.
    pub(super) fn gather(&mut self, queue: &mut VecDeque<Buf>) -> Box<Message> {
        let mut message = self.idle.pop().unwrap_or_else(|| {
            Box::new(Message {
                header: empty_message(),
                list: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_VIEWS],
                bufs: Vec::with_capacity(MAX_VIEWS),
                len: 0,
            })
        });
        let count = queue.len().min(MAX_VIEWS);
        message.len = 0;
        for (view, buf) in message.list.iter_mut().zip(queue.iter().take(count)) {
            // The kernel only reads what is sent; the type is that of receiving as well.
            *view = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        }
        message.bufs.extend(queue.drain(..count));
        message.len = message.bufs.iter().map(|buf| buf.len()).sum();
        message.header.msg_iov = message.list.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        message
    }

    /// Takes a message back of which the kernel has sent `sent` bytes; the rest goes to the front of `queue` again. Answers
    /// how many bytes are done with.
    pub(super) fn scatter(
        &mut self,
        mut message: Box<Message>,
        sent: usize,
        queue: &mut VecDeque<Buf>,
    ) -> usize {
        let done = sent.min(message.len);
        if done < message.len {
            let mut skip = done;
            let mut rest = Vec::new();
            for mut buf in message.bufs.drain(..) {
                let gone = skip.min(buf.len());
                skip -= gone;
                buf.advance(gone);
                if !buf.is_empty() {
                    rest.push(buf);
                }
            }
            for buf in rest.into_iter().rev() {
                queue.push_front(buf);
            }
        }
        message.bufs.clear();
        self.idle.push(message);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pool, PoolConfig};

    #[test]
    fn what_was_not_sent_goes_back_to_the_front_in_order() {
        let pool = Pool::new(&PoolConfig::small(8)).unwrap();
        let mut queue: VecDeque<Buf> = ["one", "two", "three"]
            .iter()
            .map(|word| pool.copy_from_slice(word.as_bytes()).unwrap())
            .collect();
        let mut messages = Messages::default();
        let message = messages.gather(&mut queue);
        assert_eq!((message.len(), queue.len()), (11, 0));
        queue.push_back(pool.copy_from_slice(b"four").unwrap());
        assert_eq!(messages.scatter(message, 4, &mut queue), 4);
        let left: Vec<&[u8]> = queue.iter().map(|buf| &buf[..]).collect();
        assert_eq!(left, [&b"wo"[..], b"three", b"four"]);
        queue.clear();
        assert_eq!(pool.stats().slots_out, 0);
    }
}
