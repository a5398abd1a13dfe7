//! RDMA: reliable connections over verbs.
//!
//! The verbs layer finds a device, registers the pool's memory once, and has queue pairs, one completion queue and one shared queue of
//! receives. It needs libibverbs, librdmacm and a device: an adapter's, or `rxe` over any interface of the kernel's. What the messages
//! mean is [`proto`]'s affair, which needs none of those.

pub mod proto;
#[cfg(all(test, feature = "rdma"))]
mod tests;
#[cfg(feature = "rdma")]
#[expect(dead_code, reason = "the transport that stands on it is not there yet")]
mod verbs;
