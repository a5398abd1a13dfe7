//! What counts as an answer, what is read out of one, and that no bytes are too odd.

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A([10, 0, 0, last].into())))
}

fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn soa(owner: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name(owner), ttl, RData::SOA(soa))
}

/// A query, and an answer to it that repeats its question.
fn asked(kind: Kind) -> (Query, Message) {
    let query = Query::new("web.example", kind, true, 0x1234_5678_9abc_def0).unwrap();
    let mut answer = Message::from_vec(query.bytes()).unwrap();
    answer.metadata.message_type = MessageType::Response;
    (query, answer)
}

fn reply(kind: Kind, fill: impl FnOnce(&mut Message)) -> Reply {
    let (query, mut answer) = asked(kind);
    fill(&mut answer);
    match query.judge(&answer.to_vec().unwrap()) {
        Verdict::Reply(reply) => reply,
        other => panic!("{other:?} is no reply"),
    }
}

fn v4(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| [10, 0, 0, *last].into()).collect()
}

#[test]
fn dots_of_other_scripts_are_dots() {
    assert_eq!(normal("www．example。com｡").as_deref(), Some("www.example.com"));
    for text in ["．5", "a．．b", "。", "a｡.b"] {
        assert_eq!(normal(text), None, "{text}");
    }
}

#[test]
fn a_question_is_one_a_server_understands() {
    let (query, _) = asked(Kind::V6);
    let read = Message::from_vec(query.bytes()).unwrap();
    assert!(read.metadata.recursion_desired);
    assert_eq!(read.metadata.id, 0xdef0);
    assert_eq!((read.queries.len(), read.max_payload()), (1, MAX_PAYLOAD_BYTES));
    assert_eq!(read.queries[0].name(), &name("web.example."));
    assert_eq!(read.queries[0].query_type(), RecordType::AAAA);
    assert_ne!(read.queries[0].name().to_ascii(), "web.example.", "the cases are mixed");
    let plain = Query::new("web.example", Kind::V6, false, 1).unwrap();
    assert!(Message::from_vec(plain.bytes()).unwrap().edns.is_none());
}

#[test]
fn addresses_at_the_end_of_aliases_are_the_names() {
    let found = reply(Kind::V4, |answer| {
        answer.add_answer(a("Host.Example.", 30, 1));
        answer.add_answer(alias("web.example.", 60, "www.example."));
        answer.add_answer(alias("WWW.example.", 50, "host.example."));
        answer.add_answer(a("host.example.", 40, 2));
        answer.add_answer(a("other.example.", 1, 9));
    });
    assert_eq!(found, Reply::Addresses(v4(&[1, 2]), 30));
}

#[test]
fn addresses_of_the_kind_asked_for_count() {
    let six = RData::AAAA(AAAA("fd00::1".parse().unwrap()));
    let found = reply(Kind::V6, |answer| {
        answer.add_answer(a("web.example.", 30, 1));
        answer.add_answer(Record::from_rdata(name("web.example."), u32::MAX, six));
    });
    assert_eq!(
        found,
        Reply::Addresses(vec!["fd00::1".parse().unwrap()], 0),
        "and a TTL that cannot be is none"
    );
}

#[test]
fn aliases_in_a_circle_end() {
    let found = reply(Kind::V4, |answer| {
        answer.add_answer(alias("web.example.", 60, "www.example."));
        answer.add_answer(alias("www.example.", 60, "web.example."));
    });
    assert_eq!(found, Reply::Looped);
}

#[test]
fn an_alias_without_its_target_is_followed_and_one_without_addresses_is_not() {
    let found = reply(Kind::V4, |answer| {
        answer.add_answer(alias("web.example.", 60, "host.other."));
    });
    assert_eq!(found, Reply::Alias("host.other".into(), 60));
    let found = reply(Kind::V4, |answer| {
        answer.add_answer(alias("web.example.", 60, "host.other."));
        answer.add_authority(soa("other.", 300, 20));
    });
    assert_eq!(found, Reply::NoneOfKind(20));
}

#[test]
fn that_there_is_nothing_holds_as_long_as_the_zone_says_and_no_other() {
    let no_name = |owner: &'static str| {
        reply(Kind::V4, |answer| {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(soa(owner, 300, 600));
        })
    };
    assert_eq!(no_name("example."), Reply::NoName(300));
    assert_eq!(no_name("other."), Reply::NoName(0));
    assert_eq!(reply(Kind::V4, |_| {}), Reply::NoneOfKind(0));
}

#[test]
fn servers_that_cannot_answer_are_told_from_those_that_do_not_understand() {
    let code = |code| reply(Kind::V4, |answer| answer.metadata.response_code = code);
    assert!(matches!(code(ResponseCode::ServFail), Reply::Failed(_)));
    assert!(matches!(code(ResponseCode::Refused), Reply::Failed(_)));
    assert_eq!(code(ResponseCode::FormErr), Reply::NotUnderstood);
    assert_eq!(code(ResponseCode::NotImp), Reply::NotUnderstood);
    let (query, _) = asked(Kind::V4);
    let bare = [query.bytes()[0], query.bytes()[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(query.judge(&bare), Verdict::Reply(Reply::NotUnderstood));
}

#[test]
fn what_answers_another_question_is_foreign() {
    let (query, answer) = asked(Kind::V4);
    let good = answer.to_vec().unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= to;
        query.judge(&bytes)
    };
    assert!(matches!(query.judge(&good), Verdict::Reply(_)));
    assert_eq!(query.judge(query.bytes()), Verdict::Foreign, "a question");
    assert_eq!(changed(0, 1), Verdict::Foreign, "another number");
    assert_eq!(changed(2, 0x08), Verdict::Foreign, "another operation");
    assert_eq!(changed(HEADER_BYTES + 1, 1), Verdict::Foreign, "another name");
    assert_eq!(changed(query.end - 3, 0x1d), Verdict::Foreign, "another kind");
    assert_eq!(changed(HEADER_BYTES + 1, 0x20), Verdict::CaseLost);
    assert_eq!(changed(2, 0b10), Verdict::Truncated);
    let mut bytes = good.clone();
    bytes[HEADER_BYTES + 1] ^= 0x20;
    assert!(matches!(query.judge_any_case(&bytes), Verdict::Reply(_)));
}

#[test]
fn names_are_made_normal_or_refused() {
    assert_eq!(normal("Web.Example.").as_deref(), Some("web.example"));
    assert_eq!(normal("_srv._tcp.example").as_deref(), Some("_srv._tcp.example"));
    assert_eq!(normal("bücher.example").as_deref(), Some("xn--bcher-kva.example"));
    let long = "x".repeat(64);
    let longer = vec!["x".repeat(60); 5].join(".");
    for wrong in ["", ".", "..", ".web", "a..b", "a b", "a\\.b", "a\nb", "a\0b", &long, &longer] {
        assert_eq!(normal(wrong), None, "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(
        tail in prop::collection::vec(any::<u8>(), 0..300),
        flags in any::<[u8; 2]>(),
        counts in prop::collection::vec(0u8..4, 3),
        own_question in any::<bool>(),
    ) {
        let (query, _) = asked(Kind::V4);
        let mut bytes = query.bytes()[..2].to_vec();
        bytes.extend([flags[0] | 0x80, flags[1], 0, 1]);
        bytes.extend(counts.iter().flat_map(|count| [0, *count]));
        if own_question {
            bytes.extend(&query.bytes()[HEADER_BYTES..query.end]);
        }
        bytes.extend(tail);
        if let Verdict::Reply(Reply::Addresses(addresses, _)) = query.judge(&bytes) {
            prop_assert!((1..=MAX_ADDRESSES).contains(&addresses.len()));
        }
    }

    #[test]
    fn an_answer_with_flipped_bytes_is_read_or_passed_over(at in 0usize..200, to in any::<u8>(), cut in 0usize..200) {
        let (query, mut answer) = asked(Kind::V4);
        answer.add_answer(alias("web.example.", 60, "host.example."));
        answer.add_answer(a("host.example.", 60, 1));
        let mut bytes = answer.to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        let _ = query.judge(&bytes);
        let _ = query.judge_any_case(&bytes);
    }

    #[test]
    fn every_normal_name_can_be_asked_for(text in "[a-zA-Z0-9_-]{1,20}(\\.[a-z0-9ü-]{1,20}){0,3}\\.?", random in any::<u64>()) {
        if let Some(name) = normal(&text) {
            let query = Query::new(&name, Kind::V4, true, random).unwrap();
            let read = Message::from_vec(query.bytes()).unwrap();
            prop_assert_eq!(normal(&read.queries[0].name().to_ascii()), Some(name));
        }
    }
}
