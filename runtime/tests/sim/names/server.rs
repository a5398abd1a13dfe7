//! A small authoritative name server for simulations: says what the test tells it to, over UDP and over TCP, and counts what
//! it is asked.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use demi::net::{TcpListener, UdpSocket};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// One question, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// In lower case, with the dot at its end.
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) tcp: bool,
    pub(crate) edns: bool,
    pub(crate) from: SocketAddr,
    pub(crate) id: u16,
}

/// What the server does with it.
pub(crate) enum Say {
    /// These records. None: there are none of this kind.
    Records(Vec<Record>),
    /// There is no such name, for a minute.
    NoName,
    /// This code and nothing else.
    Code(ResponseCode),
    /// An answer that is cut off.
    CutOff,
    /// Nothing.
    Nothing,
    /// These bytes, made of the right answer, each in a datagram of its own.
    Bytes(Vec<Record>, fn(Vec<u8>) -> Vec<Vec<u8>>),
    /// After a while.
    Late(Duration, Vec<Record>),
}

/// What was asked so far.
pub(crate) type Log = Rc<RefCell<Vec<Asked>>>;

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// An address of `owner`, for a minute.
pub(crate) fn address(owner: &str, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => RData::A(A(address)),
        std::net::IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), 60, data)
}

pub(crate) fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}

/// Serves at `at`, for ever.
pub(crate) async fn serve(at: &str, log: Log, say: impl Fn(&Asked) -> Say + 'static) -> io::Result<()> {
    let say = Rc::new(say);
    let udp = Rc::new(UdpSocket::bind(at).await?);
    let listener = TcpListener::bind(at).await?;
    let (tcp_log, tcp_say) = (log.clone(), say.clone());
    demi::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).await.is_err() {
                continue;
            }
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            if stream.read_exact(&mut bytes).await.is_err() {
                continue;
            }
            let Some((asked, question)) = understood(&bytes, from, true) else { continue };
            tcp_log.borrow_mut().push(asked.clone());
            for answer in answers(&tcp_say(&asked), &question) {
                let mut message = (answer.len() as u16).to_be_bytes().to_vec();
                message.extend(answer);
                let _ = stream.write_all(&message).await;
            }
        }
    });
    let mut bytes = [0; 2048];
    loop {
        let (count, from) = udp.recv_from(&mut bytes).await?;
        let Some((asked, question)) = understood(&bytes[..count], from, false) else { continue };
        log.borrow_mut().push(asked.clone());
        let (say, udp) = (say(&asked), udp.clone());
        demi::spawn(async move {
            if let Say::Late(wait, _) = &say {
                demi::time::sleep(*wait).await;
            }
            for answer in answers(&say, &question) {
                let _ = udp.send_to(&answer, from).await;
            }
        });
    }
}

fn understood(bytes: &[u8], from: SocketAddr, tcp: bool) -> Option<(Asked, Message)> {
    let message = Message::from_vec(bytes).ok()?;
    let question = message.queries.first()?;
    let name = question.name().to_ascii().to_ascii_lowercase();
    let (kind, edns, id) = (question.query_type(), message.edns.is_some(), message.metadata.id);
    Some((Asked { name, kind, tcp, edns, from, id }, message))
}

fn answers(say: &Say, question: &Message) -> Vec<Vec<u8>> {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    let kind = question.queries[0].query_type();
    let mut put = |records: &[Record]| {
        // Aliases, and addresses of the kind asked for.
        let fits = |record: &&Record| [kind, RecordType::CNAME].contains(&record.record_type());
        answer.add_answers(records.iter().filter(fits).cloned());
        if answer.answers.is_empty() {
            answer.add_authority(zone());
        }
    };
    match say {
        Say::Nothing => return Vec::new(),
        Say::Records(records) | Say::Late(_, records) => put(records),
        Say::NoName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(zone());
        }
        Say::Code(code) => answer.metadata.response_code = *code,
        Say::CutOff => answer.metadata.truncation = true,
        Say::Bytes(records, change) => {
            put(records);
            return change(answer.to_vec().unwrap());
        }
    }
    vec![answer.to_vec().unwrap()]
}

fn zone() -> Record {
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, 60);
    Record::from_rdata(Name::root(), 60, RData::SOA(soa))
}
