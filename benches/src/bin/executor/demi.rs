//! Ourselves, through the public API.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use demi::sync::oneshot;

use super::work::Executor;

pub(crate) struct Demi(demi::Runtime);

impl Executor for Demi {
    type Sender = oneshot::Sender<u64>;
    type Receiver = Received;

    fn new() -> Self {
        // No device: only the executor and its timers are measured.
        Demi(demi::Runtime::builder().transports(Vec::new()).build().expect("a runtime"))
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.0.block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = demi::spawn(future);
        async move { task.await.expect("a task that does not panic") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        demi::task::yield_now()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        demi::time::sleep(duration)
    }

    fn oneshot() -> (Self::Sender, Self::Receiver) {
        let (sender, receiver) = oneshot::channel();
        (sender, Received(receiver))
    }

    fn send(sender: Self::Sender, value: u64) {
        sender.send(value).expect("a receiver that waits");
    }
}

/// What a receiver awaits, with 0 for a sender that is gone.
pub(crate) struct Received(oneshot::Receiver<u64>);

impl Future for Received {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        Pin::new(&mut self.0).poll(cx).map(|value| value.unwrap_or(0))
    }
}
