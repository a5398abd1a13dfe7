//! Ourselves, through the public API.

use std::future::Future;
use std::time::Duration;

use super::work::Executor;

pub(crate) struct Demi(demi::Runtime);

impl Executor for Demi {
    type Sender = oneshot::Sender;
    type Receiver = oneshot::Receiver;

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
        oneshot::channel()
    }

    fn send(sender: Self::Sender, value: u64) {
        sender.send(value);
    }
}

/// A oneshot of one thread, as one would write it over `Cell`s.
mod oneshot {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    #[derive(Default)]
    struct Shared {
        value: Cell<Option<u64>>,
        waiter: Cell<Option<Waker>>,
    }

    pub(crate) struct Sender(Rc<Shared>);
    pub(crate) struct Receiver(Rc<Shared>);

    pub(crate) fn channel() -> (Sender, Receiver) {
        let shared = Rc::new(Shared::default());
        (Sender(shared.clone()), Receiver(shared))
    }

    impl Sender {
        pub(crate) fn send(self, value: u64) {
            self.0.value.set(Some(value));
            if let Some(waiter) = self.0.waiter.take() {
                waiter.wake();
            }
        }
    }

    impl Future for Receiver {
        type Output = u64;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
            match self.0.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    self.0.waiter.set(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        }
    }
}
