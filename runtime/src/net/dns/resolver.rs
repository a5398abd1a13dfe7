//! The resolver of one runtime: what it remembers, and lookups under way, which all who ask the same share.
//!
//! A question runs as a task of its own, so that both kinds of address are asked for at once, and so that it lives as long
//! as anybody waits for it: when the last one stops waiting, the task ends and its sockets are closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

use super::cache::{Answer, Cache, Key};
use super::exchange::{self, Failure};
use super::files::{Files, Paths};
use super::plan::{Plan, Told};
use super::wire::{self, Kind, Reply};
use crate::config::Config;
use crate::sim::Rng;
use crate::sync::Notify;
use crate::task::AbortOnDrop;
use crate::time::{Duration, Instant, timeout};

/// How long files are taken to be as they were.
const FILES_FRESH: Duration = Duration::from_secs(5);
/// Answers by which aliases are followed from one to the next.
const MAX_CHASES: usize = 8;
/// How long a connection waits for the other kind of address (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct Resolver {
    dns: Vec<IpAddr>,
    search: Vec<String>,
    paths: Paths,
    /// Numbers of a run that is to be repeated; `None`: the kernel's.
    repeated: Option<RefCell<Rng>>,
    files: RefCell<Option<(Rc<Files>, Instant)>>,
    plan: RefCell<Option<Rc<Plan>>>,
    /// The server that the next lookup begins with, if they take turns.
    turn: Cell<usize>,
    cache: RefCell<Cache>,
    asking: RefCell<BTreeMap<Key, Weak<Asking>>>,
}

/// A question under way, or answered.
#[derive(Debug, Default)]
pub(super) struct Asking {
    said: RefCell<Option<Said>>,
    told: Notify,
    task: RefCell<Option<AbortOnDrop<()>>>,
}

/// What has become of a question.
type Said = Result<Answer, Failure>;

impl Asking {
    fn known(said: Said) -> Rc<Asking> {
        Rc::new(Asking { said: Some(said).into(), ..Asking::default() })
    }

    /// What became of it, once it is known.
    async fn said(&self) -> Said {
        loop {
            let told = self.told.notified();
            if let Some(said) = self.said.borrow().clone() {
                return said;
            }
            told.await;
        }
    }
}

/// Both kinds of address of one name, being asked for.
pub(super) struct Pair {
    v4: Rc<Asking>,
    v6: Option<Rc<Asking>>,
}

/// What is known of a name when a connection to it can begin.
#[derive(Default)]
pub(super) struct Found {
    /// Some of its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The kind that is still being asked for.
    pub(super) rest: Option<Rest>,
}

/// Addresses that come late.
pub(super) struct Rest(Rc<Asking>);

impl Rest {
    /// The addresses; none, if there is anything wrong with them.
    pub(super) async fn addresses(&self) -> Vec<IpAddr> {
        match self.0.said().await {
            Ok(Answer::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        }
    }
}

impl Resolver {
    /// A resolver as `config` has it.
    pub(crate) fn new(config: &Config) -> Rc<Resolver> {
        Rc::new(Resolver {
            dns: config.dns.clone(),
            search: config.dns_search.clone(),
            paths: Paths { hosts: config.hosts_file.clone(), resolv_conf: config.resolv_conf.clone() },
            repeated: config.seed.map(|seed| RefCell::new(Rng::new(Rng::seed_for(seed, "dns")))),
            files: RefCell::new(None),
            plan: RefCell::new(None),
            turn: Cell::new(0),
            cache: RefCell::default(),
            asking: RefCell::default(),
        })
    }

    /// The addresses of `host`, a name without a port. With `eager`, as soon as a connection can begin (RFC 8305 §3); else all
    /// of them.
    pub(super) async fn lookup(self: &Rc<Self>, host: &str, eager: bool) -> io::Result<Found> {
        let cannot = |failure: Failure| {
            io::Error::new(failure.kind, format!("cannot look `{host}` up: {}", failure.text))
        };
        let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
        let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
        let name = wire::normal(host).filter(|_| !numeric).ok_or_else(|| {
            cannot(Failure::new(io::ErrorKind::InvalidInput, "it is neither an IP address nor a name"))
        })?;
        let files = self.files().await;
        if let Some(addresses) = files.hosts.get(&name) {
            return Ok(Found { addresses: addresses.to_vec(), rest: None });
        }
        let plan = self.plan(&files);
        let mut exists = false;
        for candidate in plan.candidates(&name, host.ends_with('.')) {
            match self.pair(candidate, &plan).found(eager).await {
                Ok(found) if !found.addresses.is_empty() => return Ok(found),
                Ok(_) => exists = true,
                Err(None) => {}
                // The name may well be there, and only be out of reach: what it means must not depend on that.
                Err(Some(failure)) => return Err(cannot(failure)),
            }
        }
        let says = if exists { "the name has no address" } else { "there is no such name" };
        Err(cannot(Failure::new(io::ErrorKind::NotFound, says)))
    }

    /// The files as they are now.
    async fn files(&self) -> Rc<Files> {
        if self.paths.is_empty() {
            return Rc::default();
        }
        let now = Instant::now();
        let known = self.files.borrow().as_ref().map(|(files, read)| (files.clone(), *read));
        if let Some((files, read)) = &known
            && now.saturating_duration_since(*read) < FILES_FRESH
        {
            return files.clone();
        }
        let (paths, stamps) = (self.paths.clone(), known.as_ref().map(|(files, _)| files.stamps()));
        let read = crate::task::spawn_blocking(move || paths.read(stamps)).await.unwrap_or_default();
        let files = read.map(Rc::new).or(known.map(|(files, _)| files)).unwrap_or_default();
        self.files.replace(Some((files.clone(), now)));
        files
    }

    /// Whom to ask now. What others have said is forgotten.
    fn plan(&self, files: &Files) -> Rc<Plan> {
        let told = Told::by(&crate::net::current());
        let plan = Rc::new(Plan::new(&self.dns, &self.search, &told, &files.conf));
        let mut last = self.plan.borrow_mut();
        match &*last {
            Some(known) if *known == plan => known.clone(),
            known => {
                if known.as_ref().is_some_and(|known| known.servers != plan.servers) {
                    self.cache.borrow_mut().clear();
                    self.asking.borrow_mut().clear();
                }
                *last = Some(plan.clone());
                plan
            }
        }
    }

    /// Asks for both kinds of address at once.
    fn pair(self: &Rc<Self>, name: String, plan: &Rc<Plan>) -> Pair {
        // RFC 8305 §3: AAAA goes out first.
        let v6 = (!plan.no_aaaa).then(|| self.ask((name.clone(), Kind::V6), plan));
        Pair { v4: self.ask((name, Kind::V4), plan), v6 }
    }

    /// Asks, unless it is known, or somebody asks already.
    fn ask(self: &Rc<Self>, key: Key, plan: &Rc<Plan>) -> Rc<Asking> {
        if let Some(answer) = self.cache.borrow_mut().get(&key, Instant::now()) {
            return Asking::known(Ok(answer));
        }
        let mut all = self.asking.borrow_mut();
        if let Some(asking) = all.get(&key).and_then(Weak::upgrade) {
            return asking;
        }
        all.retain(|_, asking| asking.strong_count() > 0);
        let asking = Rc::new(Asking::default());
        all.insert(key.clone(), Rc::downgrade(&asking));
        drop(all);
        let (resolver, plan, waited) = (self.clone(), plan.clone(), Rc::downgrade(&asking));
        let task = crate::spawn(async move {
            let said = resolver.answer(&key, &plan).await;
            let Some(asking) = waited.upgrade() else { return };
            let mut all = resolver.asking.borrow_mut();
            // A question that was put anew since is another's.
            if all.get(&key).is_some_and(|listed| listed.ptr_eq(&waited)) {
                all.remove(&key);
            }
            drop(all);
            asking.said.replace(Some(said));
            asking.told.notify_waiters();
        });
        asking.task.replace(Some(task.into()));
        asking
    }

    /// Asks servers, follows aliases from one answer to the next, and remembers.
    async fn answer(&self, key: &Key, plan: &Plan) -> Said {
        let (mut name, kind) = (key.0.clone(), key.1);
        let first = if plan.rotate { self.turn.replace(self.turn.get().wrapping_add(1)) } else { 0 };
        let mut held_s = u32::MAX;
        let looped =
            || Failure::new(io::ErrorKind::Other, "its aliases (CNAME) lead in a circle, or too far");
        for _ in 0..MAX_CHASES {
            let reply = exchange::ask(plan, first, &name, kind, &|| self.random()).await?;
            let (answer, ttl_s) = match reply {
                Reply::Addresses(addresses, ttl_s) => (Answer::Addresses(addresses), ttl_s),
                Reply::NoneOfKind(ttl_s) => (Answer::NoneOfKind, ttl_s),
                Reply::NoName(ttl_s) => (Answer::NoName, ttl_s),
                Reply::Alias(target, ttl_s) => {
                    (name, held_s) = (target, held_s.min(ttl_s));
                    continue;
                }
                Reply::Looped | Reply::Failed(_) | Reply::NotUnderstood => return Err(looped()),
            };
            // The servers may have changed while this one was thinking.
            if self.plan.borrow().as_ref().is_some_and(|now| now.servers == plan.servers) {
                let mut cache = self.cache.borrow_mut();
                cache.put(key.clone(), &answer, ttl_s.min(held_s), Instant::now());
            }
            return Ok(answer);
        }
        Err(looped())
    }

    /// What nobody can guess, unless a run is to be repeated.
    fn random(&self) -> io::Result<u64> {
        match &self.repeated {
            Some(rng) => Ok(rng.borrow_mut().next_u64()),
            None => crate::runtime::random_seed(),
        }
    }
}

impl Pair {
    /// What is found: no addresses if the name has none; `None` if there is no such name.
    async fn found(self, eager: bool) -> Result<Found, Option<Failure>> {
        let Some(v6) = self.v6 else { return both(&[self.v4.said().await]) };
        if eager {
            return either(self.v4, v6).await;
        }
        let v6 = v6.said().await;
        both(&[v6, self.v4.said().await])
    }
}

/// What two answers come to.
fn both(said: &[Said]) -> Result<Found, Option<Failure>> {
    let (mut found, mut exists, mut failed) = (Found::default(), false, None);
    for said in said {
        match said {
            Ok(Answer::Addresses(addresses)) => found.addresses.extend(addresses),
            Ok(Answer::NoneOfKind) => exists = true,
            Ok(Answer::NoName) => {}
            Err(failure) => failed = failed.or_else(|| Some(failure.clone())),
        }
    }
    match failed {
        Some(failure) if found.addresses.is_empty() => Err(Some(failure)),
        _ if exists || !found.addresses.is_empty() => Ok(found),
        _ => Err(None),
    }
}

/// RFC 8305 §3: IPv6 addresses are enough to begin with; IPv4 addresses are when IPv6 ones let wait for them.
async fn either(v4: Rc<Asking>, v6: Rc<Asking>) -> Result<Found, Option<Failure>> {
    let mut first = std::pin::pin!(v4.said());
    let mut said_v4 = None;
    let said_v6 = {
        let mut second = std::pin::pin!(v6.said());
        let two = std::future::poll_fn(|cx| {
            use std::task::Poll;
            if let Poll::Ready(said) = second.as_mut().poll(cx) {
                return Poll::Ready(Some(said));
            }
            first.as_mut().poll(cx).map(|said| {
                said_v4 = Some(said);
                None
            })
        });
        match two.await {
            Some(said) => Some(said),
            None => match &said_v4 {
                // Without any address of IPv4, IPv6's are what there is to wait for.
                Some(Ok(Answer::Addresses(_))) => timeout(RESOLUTION_DELAY, second).await.ok(),
                _ => Some(second.await),
            },
        }
    };
    match (said_v4, said_v6) {
        (Some(said_v4), Some(said_v6)) => both(&[said_v6, said_v4]),
        (Some(said_v4), None) => both(&[said_v4]).map(|found| Found { rest: Some(Rest(v6)), ..found }),
        (None, Some(Ok(Answer::Addresses(addresses)))) => {
            Ok(Found { addresses, rest: Some(Rest(v4.clone())) })
        }
        (None, Some(said_v6)) => both(&[said_v6, first.await]),
        (None, None) => Err(None),
    }
}
