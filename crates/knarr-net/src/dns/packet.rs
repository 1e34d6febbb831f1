//! The few things that are done to a DNS message without decoding it: answers of others are passed on and kept as they came.

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 12;
const FLAG_RESPONSE: u8 = 0x80;
const FLAG_AUTHORITATIVE: u8 = 0x04;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_CHECKING_DISABLED: u8 = 0x10;
const RCODE_MASK: u8 = 0x0f;
const TYPE_OPT: u16 = 41;
const TYPE_SOA: u16 = 6;
/// In the upper bytes of an OPT record's TTL field.
const DNSSEC_OK: u32 = 0x8000;

fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

fn be32(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(packet, at)?) << 16 | u32::from(be16(packet, at + 2)?))
}

pub(super) fn id(packet: &[u8]) -> Option<u16> {
    be16(packet, 0)
}

pub(super) fn set_id(packet: &mut [u8], id: u16) {
    if let Some(bytes) = packet.get_mut(..2) {
        bytes.copy_from_slice(&id.to_be_bytes());
    }
}

pub(super) fn is_response(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|b| b & FLAG_RESPONSE != 0)
}

/// Whether the answer is our own.
pub(super) fn is_authoritative(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|b| b & FLAG_AUTHORITATIVE != 0)
}

/// Number of records in the answer section.
pub(super) fn answers(packet: &[u8]) -> u16 {
    be16(packet, 6).unwrap_or_default()
}

pub(super) fn rcode(packet: &[u8]) -> u8 {
    packet.get(3).map_or(0, |b| b & RCODE_MASK)
}

pub(super) fn is_truncated(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|b| b & FLAG_TRUNCATED != 0)
}

/// Where a name that begins at `at` ends. Absent for one that is cut off.
fn name_end(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

/// The question of a message: name, type and class. Absent if there is not exactly one, or its name is compressed.
pub(super) fn question(packet: &[u8]) -> Option<&[u8]> {
    if be16(packet, 4)? != 1 {
        return None;
    }
    let end = name_end(packet, HEADER_LEN)?;
    (packet.get(end - 1) == Some(&0)).then(|| packet.get(HEADER_LEN..end + 4)).flatten()
}

/// What two queries must have in common to have the same answer.
pub(super) fn cache_key(packet: &[u8]) -> Option<Vec<u8>> {
    let question = question(packet)?;
    let mut key = question.to_ascii_lowercase();
    // Lower case must not touch type and class.
    let name_len = question.len() - 4;
    key[name_len..].copy_from_slice(&question[name_len..]);
    key.push(packet.get(2)? & FLAG_RECURSION_DESIRED | packet.get(3)? & FLAG_CHECKING_DISABLED);
    let opt = records(packet)?.into_iter().find(|r| r.kind == TYPE_OPT);
    key.push(opt.map_or(0, |r| if r.ttl & DNSSEC_OK != 0 { 2 } else { 1 }));
    Some(key)
}

/// A record in a message.
struct RecordAt {
    kind: u16,
    ttl: u32,
    ttl_at: usize,
    /// Index of the section: answer, authority, additional.
    section: u8,
    data: (usize, usize),
}

fn records(packet: &[u8]) -> Option<Vec<RecordAt>> {
    let mut at = HEADER_LEN;
    for _ in 0..be16(packet, 4)? {
        at = name_end(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for (section, count_at) in [6, 8, 10].into_iter().enumerate() {
        for _ in 0..be16(packet, count_at)? {
            let fixed = name_end(packet, at)?;
            let data = fixed + 10;
            let end = data + usize::from(be16(packet, fixed + 8)?);
            if end > packet.len() {
                return None;
            }
            found.push(RecordAt { kind: be16(packet, fixed)?, ttl: be32(packet, fixed + 4)?, ttl_at: fixed + 4, section: section as u8, data: (data, end) });
            at = end;
        }
    }
    Some(found)
}

/// How long an answer may be kept, in seconds, and where its TTLs stand. Absent for what is not to be kept.
pub(super) fn lifetime(packet: &[u8]) -> Option<(u32, Vec<usize>)> {
    const ANSWER: u8 = 0;
    let all: Vec<_> = records(packet)?.into_iter().filter(|r| r.kind != TYPE_OPT).collect();
    let shortest = all.iter().map(|r| r.ttl).min()?;
    // An answer of nothing lives as long as its zone says; without a word from the zone it is not kept.
    let nothing = !all.iter().any(|r| r.section == ANSWER);
    let minimum = all.iter().find(|r| r.kind == TYPE_SOA).and_then(|r| be32(packet, r.data.1.checked_sub(4).filter(|at| *at >= r.data.0)?));
    let seconds = if nothing { shortest.min(minimum?) } else { shortest };
    Some((seconds, all.iter().map(|r| r.ttl_at).collect()))
}

/// Takes the time that passed off the TTLs.
pub(super) fn age(packet: &mut [u8], ttls: &[usize], seconds: u32) {
    for at in ttls {
        if let (Some(ttl), Some(bytes)) = (be32(packet, *at), packet.get_mut(*at..*at + 4)) {
            bytes.copy_from_slice(&ttl.saturating_sub(seconds).to_be_bytes());
        }
    }
}

/// Makes an answer that is too long one that says so: header and question only.
pub(super) fn truncate(packet: &mut Vec<u8>) {
    let end = question(packet).map_or(HEADER_LEN, |q| HEADER_LEN + q.len());
    packet.truncate(end);
    if let Some(header) = packet.get_mut(..HEADER_LEN) {
        header[2] |= FLAG_TRUNCATED;
        header[6..].fill(0);
        if end == HEADER_LEN {
            header[4..6].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    fn query(name: &str, edns: Option<bool>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        if let Some(dnssec_ok) = edns {
            let mut edns = Edns::new();
            edns.set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn answer(records: &[(&str, u32)], soa: Option<(u32, u32)>) -> Vec<u8> {
        let name = Name::from_ascii("a.example.").unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.response_code = ResponseCode::NoError;
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answers(records.iter().map(|(ip, ttl)| Record::from_rdata(name.clone(), *ttl, RData::A(A(ip.parse().unwrap())))));
        if let Some((ttl, minimum)) = soa {
            message.add_authority(Record::from_rdata(name.clone(), ttl, RData::SOA(SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum))));
        }
        message.set_edns(Edns::new());
        message.to_vec().unwrap()
    }

    #[test]
    fn queries_share_a_key_only_if_they_share_the_answer() {
        let key = |name, edns| cache_key(&query(name, edns)).unwrap();
        assert_eq!(key("A.example.", None), key("a.EXAMPLE.", None));
        assert_ne!(key("a.example.", None), key("b.example.", None));
        assert_ne!(key("a.example.", None), key("a.example.", Some(false)));
        assert_ne!(key("a.example.", Some(true)), key("a.example.", Some(false)));
        assert_eq!(cache_key(&query("a.example.", None)[..20]), None);
    }

    #[test]
    fn an_answer_lives_as_long_as_its_shortest_record_and_one_of_nothing_as_its_zone_says() {
        assert_eq!(lifetime(&answer(&[("192.0.2.1", 60), ("192.0.2.2", 20)], None)).unwrap().0, 20);
        assert_eq!(lifetime(&answer(&[], Some((300, 15)))).unwrap().0, 15);
        assert_eq!(lifetime(&answer(&[], None)), None);
    }

    #[test]
    fn an_old_answer_has_less_time_left() {
        let mut packet = answer(&[("192.0.2.1", 60)], None);
        let (_, ttls) = lifetime(&packet).unwrap();
        age(&mut packet, &ttls, 25);
        assert_eq!(Message::from_vec(&packet).unwrap().answers[0].ttl, 35);
    }

    #[test]
    fn a_truncated_answer_is_still_a_message() {
        let mut packet = answer(&[("192.0.2.1", 60)], None);
        truncate(&mut packet);
        let message = Message::from_vec(&packet).unwrap();
        assert!(message.metadata.truncation && message.answers.is_empty() && message.queries.len() == 1 && is_truncated(&packet));
    }

    #[test]
    fn fuzz_dns_packets() {
        let seeds = vec![
            query("a.example.", None),
            query("a.b.c.example.", Some(true)),
            answer(&[("192.0.2.1", 60), ("192.0.2.2", 20)], None),
            answer(&[], Some((300, 15))),
        ];
        let target = knarr_fuzz::Target { name: "DNS packets", form: knarr_fuzz::Form::Bytes, seeds, words: &["\u{0}\u{1}", "example", "\u{7}", "\u{3f}"] };
        knarr_fuzz::fuzz(target, |input| {
            let mut packet = input.to_vec();
            let asked = question(&packet).map(<[u8]>::to_vec);
            let key = cache_key(&packet);
            (id(&packet), is_response(&packet), is_authoritative_or_short(&packet));
            let life = lifetime(&packet);
            if let Some((seconds, ttls)) = &life {
                let (before, len) = (packet.clone(), packet.len());
                age(&mut packet, ttls, 7);
                assert_eq!((packet.len(), question(&packet).map(<[u8]>::to_vec)), (len, asked.clone()), "only times change");
                let (after, again) = lifetime(&packet).expect("it still is a message");
                assert_eq!((after <= *seconds, &again), (true, ttls));
                // Names may lead anywhere, also into a time: those are other names once it has passed. No label begins like this.
                let mut marked = before.clone();
                ttls.iter().for_each(|at| marked[*at..*at + 4].fill(0x80));
                if Message::from_vec(&before).is_ok() && Message::from_vec(&marked).is_ok() {
                    Message::from_vec(&packet).expect("still read by others");
                }
            }
            truncate(&mut packet);
            assert_eq!(question(&packet).map(<[u8]>::to_vec).filter(|_| packet.len() > HEADER_LEN), asked, "the question stays");
            format!("{} {} {}", asked.is_some(), key.is_some(), life.is_some())
        });
    }

    fn is_authoritative_or_short(packet: &[u8]) -> bool {
        packet.len() < HEADER_LEN || is_authoritative(packet) || is_truncated(packet) || answers(packet) > 0 || rcode(packet) > 0
    }
}
