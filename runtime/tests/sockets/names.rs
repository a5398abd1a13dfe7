//! What addresses may be written as.

use std::io::ErrorKind;

use demi::net::{TcpListener, TcpSocket, TcpStream};

use super::support::on_each;

#[test]
fn names_and_versions_are_understood() {
    on_each(|| async {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(("localhost", port)).await.unwrap();
        assert!(stream.peer_addr().unwrap().ip().is_loopback());
        #[cfg(not(feature = "dns"))]
        {
            let error = TcpStream::connect("example.com:80").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        let error = TcpStream::connect("not..a.name:80").await.unwrap_err();
        let refused = if cfg!(feature = "dns") { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
        assert_eq!(error.kind(), refused);

        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        assert!(peer.is_ipv6());
        client.write_all(b"six").await.unwrap();
        assert_eq!(&server.pop().await.unwrap().unwrap()[..], b"six");

        let socket = TcpSocket::new_v4().unwrap();
        let error = socket.bind("[::1]:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}
