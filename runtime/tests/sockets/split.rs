//! Halves of a stream.

use std::io::ErrorKind;

use super::support::{on_each, pair, pattern, read_to_end, tight_pair};

#[test]
fn both_directions_of_one_stream_flow_at_once() {
    on_each(|| async {
        let (mut client, mut server) = tight_pair().await;
        // Through buffers of a few kilobytes, nobody gets on unless both directions do.
        let sent = pattern(400_000);
        let both = async |stream: &mut demi::net::TcpStream| {
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let reading = async {
                let mut all = Vec::new();
                while let Some(buf) = read.pop().await.unwrap() {
                    all.extend_from_slice(&buf);
                }
                all
            };
            futures_util::join!(writing, reading).1
        };
        let (one, two) = futures_util::join!(both(&mut client), both(&mut server));
        assert!(one == sent && two == sent);
    });
}

#[test]
fn owned_halves_live_in_different_tasks() {
    on_each(|| async {
        let (client, mut server) = tight_pair().await;
        let (mut read, mut write) = client.into_split();
        let sent = pattern(200_000);
        let expected = sent.clone();
        let writer = demi::spawn(async move { write.write_all(&sent).await });
        let echo = demi::spawn(async move {
            while let Some(buf) = server.pop().await.unwrap() {
                server.push(buf).await.unwrap();
            }
        });
        let mut received = Vec::new();
        while let Some(buf) = read.pop().await.unwrap() {
            received.extend_from_slice(&buf);
        }
        assert!(received == expected, "dropping the writing half ended that direction only");
        writer.await.unwrap().unwrap();
        echo.await.unwrap();
    });
}

#[test]
fn halves_of_one_stream_reunite_with_what_was_shown_and_not_read() {
    on_each(|| async {
        let (mut client, server) = pair().await;
        client.write_all(b"line\nrest").await.unwrap();
        let (mut read, write) = server.into_split();
        let mut line = String::new();
        futures_util::AsyncBufReadExt::read_line(&mut read, &mut line).await.unwrap();
        let mut server = read.reunite(write).unwrap();
        assert_eq!(&server.pop().await.unwrap().unwrap()[..], b"rest");
        server.write_all(b"still open").await.unwrap();
        assert_eq!(&client.pop().await.unwrap().unwrap()[..], b"still open");
    });
}

#[test]
fn halves_of_different_streams_are_given_back() {
    on_each(|| async {
        let (one, two) = pair().await;
        let (read_one, write_one) = one.into_split();
        let (read_two, write_two) = two.into_split();
        let error = read_one.reunite(write_two).unwrap_err();
        assert_eq!(error.to_string(), "tried to reunite halves that are not of one stream");
        error.0.reunite(write_one).unwrap();
        read_two.reunite(error.1).unwrap();
    });
}

#[test]
fn a_forgotten_half_ends_nothing_and_the_last_half_closes() {
    on_each(|| async {
        let (client, mut server) = pair().await;
        let (read, write) = client.into_split();
        write.forget();
        assert_eq!(server.try_pop().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(read);
        assert!(read_to_end(&mut server).await.unwrap().is_empty());
    });
}
