//! hyper's executor and timer, over the running runtime. Streams need no adapter: they are hyper's `rt::Read` and `rt::Write`.
//!
//! ```
//! use demi::compat::hyper::Executor;
//! use demi::net::{TcpListener, TcpStream};
//! use http_body_util::{BodyExt, Empty, Full};
//! use hyper::body::Bytes;
//! use hyper::service::service_fn;
//!
//! # demi::Runtime::new(demi::Config::new())?.block_on(async {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let addr = listener.local_addr()?;
//! demi::spawn(async move {
//!     let (stream, _) = listener.accept().await.unwrap();
//!     let hello = service_fn(async |_| {
//!         Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(Bytes::from("hello"))))
//!     });
//!     let server = hyper::server::conn::http2::Builder::new(Executor);
//!     let _ = server.serve_connection(stream, hello).await;
//! });
//!
//! let stream = TcpStream::connect(addr).await?;
//! let client = hyper::client::conn::http2::handshake(Executor, stream).await;
//! let (mut sender, connection) = client.map_err(std::io::Error::other)?;
//! demi::spawn(async move { let _ = connection.await; });
//! let request = hyper::Request::get(format!("http://{addr}/")).body(Empty::<Bytes>::new()).unwrap();
//! let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
//! let body = response.into_body().collect().await.map_err(std::io::Error::other)?;
//! assert_eq!(body.to_bytes(), "hello");
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::time;

/// Spawns hyper's futures on the running runtime. They need not be `Send`.
///
/// # Panics
/// When something is spawned outside of a runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executor;

impl Executor {
    /// An executor; there is nothing to it.
    pub const fn new() -> Self {
        Executor
    }
}

impl<F> ::hyper::rt::Executor<F> for Executor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // Dropping the handle detaches the task.
        drop(crate::spawn(future));
    }
}

/// Lets hyper time things out on the running runtime's clock: `header_read_timeout`, keep-alive pings.
///
/// ```
/// use std::time::Duration;
/// # use demi::net::{TcpListener, TcpStream};
/// # let runtime = demi::Runtime::new(demi::Config::new())?;
/// # runtime.block_on(async {
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let slow_client = TcpStream::connect(listener.local_addr()?).await?;
/// # let (stream, _) = listener.accept().await?;
/// # let service = hyper::service::service_fn(async |_| {
/// #     Ok::<_, std::convert::Infallible>(hyper::Response::new(String::new()))
/// # });
/// let served = hyper::server::conn::http1::Builder::new()
///     .timer(demi::compat::hyper::Timer)
///     .header_read_timeout(Duration::from_millis(5))
///     .serve_connection(stream, service)
///     .await;
/// assert!(served.unwrap_err().is_timeout()); // the client never sent its request
/// # drop(slow_client);
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// Outside of a runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl Timer {
    /// A timer; there is nothing to it.
    pub const fn new() -> Self {
        Timer
    }
}

impl ::hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn ::hyper::rt::Sleep>> {
        Box::pin(time::sleep(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn ::hyper::rt::Sleep>> {
        Box::pin(time::sleep_until(time::Instant::from_std(deadline)))
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn ::hyper::rt::Sleep>>, new_deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<time::Sleep>() {
            Some(sleep) => sleep.reset(time::Instant::from_std(new_deadline)),
            None => *sleep = self.sleep_until(new_deadline),
        }
    }
}

impl ::hyper::rt::Sleep for time::Sleep {}
