//! Where a runtime stands among its fellows: its index, and a post to each of the others.
//!
//! A job for another core goes into the ring that leads there. What does not fit waits here, in order, and a courier (an
//! ordinary task) carries it on as there is room. On the other side an ordinary task, too, empties each ring; nothing of
//! this is looked at in a turn of the loop in which nothing came.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::Affinity;
use super::lanes::{self, Bell, Lanes};
use crate::context;
use crate::mesh::{self, Receiver, Sender, TrySendError};
use crate::runtime::Inner;
use crate::transports::Queue;

/// Something for another core to do, within its runtime.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs that are on the way from one core to one other.
const RING: usize = 256;
/// Jobs begun before other tasks are let run.
const JOBS_A_POLL: usize = 32;

/// What a runtime is told of its place when it is made.
pub(crate) struct Placing {
    pub(super) index: usize,
    pub(super) cpus: Arc<[Option<usize>]>,
    posts: Vec<Option<Sender<Job>>>,
    mail: Vec<Receiver<Job>>,
    /// For each device of frames, in the order of the configuration's, the ways to the stacks of the others.
    lanes: Vec<Lanes>,
    bell: Option<Arc<Bell>>,
    /// What all of them share and nobody else knows.
    secret: [u64; 3],
    /// Where the process may run, for threads that are not pinned.
    pub(super) process: Option<Affinity>,
}

impl Placing {
    /// The only one.
    pub(crate) fn alone(cpu: Option<usize>) -> Placing {
        Placing {
            index: 0,
            cpus: Arc::new([cpu]),
            posts: Vec::new(),
            mail: Vec::new(),
            lanes: Vec::new(),
            bell: None,
            secret: [0; 3],
            process: None,
        }
    }

    /// One for each of `cpus`, with a ring from each to each other, for jobs and for the frames of `devices` devices.
    pub(crate) fn all(
        cpus: &Arc<[Option<usize>]>,
        process: &Affinity,
        devices: usize,
        secret: [u64; 3],
    ) -> Vec<Placing> {
        let count = cpus.len();
        let bells: Vec<_> = cpus.iter().map(|_| Bell::new()).collect();
        let mut all: Vec<Placing> = (0..count)
            .map(|index| Placing {
                index,
                cpus: Arc::clone(cpus),
                posts: Vec::with_capacity(count),
                mail: Vec::with_capacity(count),
                lanes: Vec::with_capacity(devices),
                bell: bells.get(index).filter(|_| count > 1 && devices > 0).cloned(),
                secret,
                process: Some(process.clone()),
            })
            .collect();
        for from in 0..count {
            for to in 0..count {
                let ways = (from != to).then(|| mesh::channel(RING));
                let (post, mail) = ways.unzip();
                if let Some(placing) = all.get_mut(from) {
                    placing.posts.push(post);
                }
                if let Some(placing) = all.get_mut(to) {
                    placing.mail.extend(mail);
                }
            }
        }
        for _ in 0..devices {
            for (placing, lanes) in all.iter_mut().zip(lanes::all(&bells)) {
                placing.lanes.push(lanes);
            }
        }
        all
    }

    /// The queue of each device that is this one's.
    pub(crate) fn queue(&self) -> Queue {
        Queue { index: self.index, of: self.cpus.len(), secret: self.secret }
    }

    /// The ways from the next device's stack to the stacks of the others, for who makes that stack before the runtime.
    pub(crate) fn take_lanes(&mut self) -> Option<Lanes> {
        (!self.lanes.is_empty()).then(|| self.lanes.remove(0))
    }

    /// The processor to run on.
    pub(crate) fn cpu(&self) -> Option<usize> {
        self.cpus.get(self.index).copied().flatten()
    }

    /// Where threads beside the runtimes may run: not on their cores, if there are others.
    pub(crate) fn beside(&self, before: &Affinity) -> Affinity {
        self.process.as_ref().unwrap_or(before).without(self.cpus.iter().copied().flatten())
    }

    /// The runtime's own view of its place, and the rings that lead to it.
    pub(crate) fn settle(self) -> (Place, Vec<Receiver<Job>>, Option<Arc<Bell>>) {
        let posts = self
            .posts
            .into_iter()
            .map(|sender| sender.map(|sender| Post { sender, waiting: VecDeque::new(), has_courier: false }));
        let place = Place {
            index: self.index,
            cpus: self.cpus,
            posts: RefCell::new(posts.collect()),
            lanes: RefCell::new(self.lanes.into()),
            secret: self.secret,
            on_open: Cell::new(None),
        };
        (place, self.mail, self.bell)
    }
}

/// Where a runtime stands.
pub(crate) struct Place {
    index: usize,
    cpus: Arc<[Option<usize>]>,
    posts: RefCell<Vec<Option<Post>>>,
    /// Until the devices are opened.
    lanes: RefCell<VecDeque<Lanes>>,
    secret: [u64; 3],
    /// What is to be done once the runtime's devices are open: the other cores are begun.
    on_open: Cell<Option<Box<dyn FnOnce()>>>,
}

/// The way to one other core.
struct Post {
    sender: Sender<Job>,
    /// What did not fit, in order.
    waiting: VecDeque<Job>,
    has_courier: bool,
}

impl Place {
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn cpus(&self) -> Arc<[Option<usize>]> {
        Arc::clone(&self.cpus)
    }

    /// The queue of each device that is this runtime's.
    pub(crate) fn queue(&self) -> Queue {
        Queue { index: self.index, of: self.cpus.len(), secret: self.secret }
    }

    /// The ways from the next device's stack to the stacks of the other cores.
    pub(crate) fn take_lanes(&self) -> Option<Lanes> {
        self.lanes.borrow_mut().pop_front()
    }

    #[cfg(feature = "macros")]
    pub(super) fn set_on_open(&self, then: Box<dyn FnOnce()>) {
        self.on_open.set(Some(then));
    }

    /// The runtime's devices are open.
    pub(crate) fn opened(&self) {
        if let Some(then) = self.on_open.take() {
            then();
        }
    }

    /// Has `job` done on the core with index `to`. When that core is ending, it is dropped.
    ///
    /// # Panics
    /// When there is no such core.
    #[track_caller]
    pub(super) fn post(runtime: &Rc<Inner>, to: usize, job: Job) {
        let place = runtime.place();
        if to == place.index {
            return job();
        }
        let mut posts = place.posts.borrow_mut();
        let Some(post) = posts.get_mut(to).and_then(Option::as_mut) else {
            panic!("there is no core {to} in this runtime: it has {}, counted from 0", place.cpus.len());
        };
        if post.waiting.is_empty() {
            match post.sender.try_send(job) {
                Ok(()) => return,
                Err(TrySendError::Full(job)) => post.waiting.push_back(job),
                Err(TrySendError::Closed(job)) => {
                    // It tells who waits for it; that is foreign code.
                    drop(posts);
                    return drop(job);
                }
            }
        } else {
            post.waiting.push_back(job);
        }
        if !core::mem::replace(&mut post.has_courier, true) {
            drop(posts);
            drop(
                runtime
                    .executor()
                    .spawn(poll_fn(move |cx| context::with(|runtime| runtime.place().carry(to, cx)))),
            );
        }
    }

    /// Carries on what waits for room on the way to `to`.
    fn carry(&self, to: usize, cx: &mut Context<'_>) -> Poll<()> {
        let undeliverable = {
            let mut posts = self.posts.borrow_mut();
            let Some(post) = posts.get_mut(to).and_then(Option::as_mut) else { return Poll::Ready(()) };
            loop {
                if post.waiting.is_empty() {
                    post.has_courier = false;
                    return Poll::Ready(());
                }
                match post.sender.poll_ready(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => break,
                    Poll::Ready(Ok(())) => {}
                }
                let Some(job) = post.waiting.pop_front() else { continue };
                if let Err(TrySendError::Full(job) | TrySendError::Closed(job)) = post.sender.try_send(job) {
                    post.waiting.push_front(job);
                }
            }
            post.has_courier = false;
            core::mem::take(&mut post.waiting)
        };
        // They tell who waits for them; that is foreign code.
        drop(undeliverable);
        Poll::Ready(())
    }
}

/// Does what comes from one other core, in order, for ever.
pub(crate) async fn attend(mut mail: Receiver<Job>) {
    loop {
        for _ in 0..JOBS_A_POLL {
            match mail.recv().await {
                Some(job) => job(),
                None => return,
            }
        }
        crate::task::yield_now().await;
    }
}
