//! Other crates' traits on the streams.

use futures_util::{AsyncReadExt, AsyncWriteExt};

use super::support::{on_each, pair, pattern};

#[test]
fn the_copy_of_futures_carries_a_stream_into_a_stream() {
    on_each(|| async {
        let ((mut source, left), (right, mut sink)) = (pair().await, pair().await);
        let relay = demi::spawn(async move {
            let (left, mut right) = (left, right);
            let count = futures_util::io::copy(left, &mut right).await.unwrap();
            AsyncWriteExt::close(&mut right).await.unwrap();
            count
        });
        let sent = pattern(300_000);
        let expected = sent.clone();
        let writer = demi::spawn(async move {
            AsyncWriteExt::write_all(&mut source, &sent).await.unwrap();
            AsyncWriteExt::flush(&mut source).await.unwrap();
            AsyncWriteExt::close(&mut source).await.unwrap();
        });
        let mut received = Vec::new();
        AsyncReadExt::read_to_end(&mut sink, &mut received).await.unwrap();
        assert!(received == expected);
        assert_eq!(relay.await.unwrap(), 300_000);
        writer.await.unwrap();
    });
}

#[cfg(feature = "tokio")]
mod tokio {
    use ::tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    use crate::support::{on_each, pair, pattern, poll_once};

    #[test]
    fn copy_bidirectional_of_tokio_relays_until_both_ends_are_done() {
        on_each(|| async {
            let ((mut client, mut left), (mut right, mut server)) = (pair().await, pair().await);
            let relay =
                demi::spawn(
                    async move { ::tokio::io::copy_bidirectional(&mut left, &mut right).await.unwrap() },
                );
            let echo = demi::spawn(async move {
                while let Some(buf) = server.pop().await.unwrap() {
                    server.push(buf).await.unwrap();
                }
            });
            let sent = pattern(500_000);
            let (mut read, mut write) = client.split();
            let writing = async {
                AsyncWriteExt::write_all(&mut write, &sent).await.unwrap();
                AsyncWriteExt::shutdown(&mut write).await.unwrap();
            };
            let mut received = Vec::new();
            futures_util::join!(writing, async {
                AsyncReadExt::read_to_end(&mut read, &mut received).await.unwrap()
            });
            assert!(received == sent);
            assert_eq!(relay.await.unwrap(), (500_000, 500_000));
            echo.await.unwrap();
        });
    }

    #[test]
    fn memory_that_is_not_initialised_is_filled_and_what_is_filled_stays() {
        on_each(|| async {
            let (mut client, mut server) = pair().await;
            client.write_all(b"world").await.unwrap();
            let mut greeting = Vec::with_capacity(64);
            greeting.extend_from_slice(b"hello ");
            assert_eq!(AsyncReadExt::read_buf(&mut server, &mut greeting).await.unwrap(), 5);
            assert_eq!(greeting, b"hello world");
            assert!(poll_once(AsyncReadExt::read_buf(&mut server, &mut greeting)).is_none());
            assert_eq!(greeting, b"hello world", "a cancelled read leaves the memory alone");
        });
    }

    #[test]
    fn owned_halves_and_adapters_work() {
        on_each(|| async {
            let (client, server) = pair().await;
            let (read, mut write) = server.into_split();
            demi::spawn(async move {
                let mut lines = BufReader::new(read).lines();
                while let Some(line) = lines.next_line().await.unwrap() {
                    AsyncWriteExt::write_all(&mut write, format!("{line}!\n").as_bytes()).await.unwrap();
                }
            });
            let mut client = BufReader::new(client);
            AsyncWriteExt::write_all(&mut client, b"a\nb\n").await.unwrap();
            let mut line = String::new();
            client.read_line(&mut line).await.unwrap();
            client.read_line(&mut line).await.unwrap();
            assert_eq!(line, "a!\nb!\n");
        });
    }
}

#[cfg(feature = "hyper")]
mod hyper {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::rc::Rc;

    use ::hyper::body::{Bytes, Incoming};
    use ::hyper::service::service_fn;
    use ::hyper::{Request, Response};
    use http_body_util::{BodyExt, Full};

    use demi::compat::hyper::Executor;

    use crate::support::{on_each, pair, pattern};

    /// Answers with the request's body; counts without atomics: neither service nor executor is `Send`.
    async fn echo(
        served: Rc<Cell<u32>>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        served.set(served.get() + 1);
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(Full::new(body)))
    }

    #[test]
    fn http1_server_and_client_talk_over_one_kept_connection() {
        on_each(|| async {
            let (client, server) = pair().await;
            let served = Rc::new(Cell::new(0));
            let count = served.clone();
            let server = demi::spawn(async move {
                let service = service_fn(move |request| echo(count.clone(), request));
                ::hyper::server::conn::http1::Builder::new().serve_connection(server, service).await.unwrap();
            });
            let (mut sender, connection) =
                ::hyper::client::conn::http1::handshake::<_, Full<Bytes>>(client).await.unwrap();
            let connection = demi::spawn(async move { connection.await.unwrap() });
            for size in [0, 5, 300_000] {
                let body = Bytes::from(pattern(size));
                let request =
                    Request::post("/").header("host", "demi").body(Full::new(body.clone())).unwrap();
                sender.ready().await.unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert!(response.into_body().collect().await.unwrap().to_bytes() == body, "{size} bytes");
            }
            drop(sender);
            connection.await.unwrap();
            server.await.unwrap();
            assert_eq!(served.get(), 3);
        });
    }

    #[test]
    fn http2_streams_share_one_connection() {
        on_each(|| async {
            let (client, server) = pair().await;
            let served = Rc::new(Cell::new(0));
            let count = served.clone();
            demi::spawn(async move {
                let service = service_fn(move |request| echo(count.clone(), request));
                let _ = ::hyper::server::conn::http2::Builder::new(Executor)
                    .serve_connection(server, service)
                    .await;
            });
            let (sender, connection) =
                ::hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(Executor, client).await.unwrap();
            demi::spawn(async move {
                let _ = connection.await;
            });
            let requests = (1..=10).map(|n| {
                let mut sender = sender.clone();
                async move {
                    let body = Bytes::from(pattern(n * 10_000));
                    let request = Request::post("http://demi/").body(Full::new(body.clone())).unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    assert!(response.into_body().collect().await.unwrap().to_bytes() == body, "{n}");
                }
            });
            futures_util::future::join_all(requests).await;
            assert_eq!(served.get(), 10);
        });
    }
}
