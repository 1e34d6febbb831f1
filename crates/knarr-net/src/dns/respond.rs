//! From a query to its answer.

use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use knarr_core::clock::Env;

use super::directory::Directory;
use super::packet;
use super::prepared::{Prepared, QueryKey};
use super::upstream::Upstream;
use super::zone::{Outcome, Zone};

/// Most bytes that we send in one UDP packet: no fragments on any usual path (DNS flag day 2020).
const UDP_LEN_MAX: u16 = 1232;
/// What a client without EDNS takes.
const UDP_LEN_PLAIN: u16 = 512;
/// Aliases followed in one answer.
const ALIASES_MAX: usize = 8;

/// How a query came, and so how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What is to be done about a query.
#[derive(Debug)]
pub(super) enum Step {
    Reply(Vec<u8>),
    /// Not a query.
    Ignore,
    /// The rest needs others: [`Responder::finish`].
    Wait(Pending),
}

/// A query whose answer others have.
#[derive(Debug)]
pub(super) enum Pending {
    /// All of it.
    Forward { limit: u16, query: Vec<u8> },
    /// The records of the name that an alias of ours leads to.
    Target { limit: u16, response: Box<Message>, target: Name },
}

pub(super) struct Responder {
    pub zone: Zone,
    pub directory: Arc<dyn Directory>,
    pub upstream: Upstream,
    pub prepared: Prepared,
    /// Whether the directory knows everything yet.
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
    pub env: Env,
}

impl Responder {
    /// Writes the answer to a UDP query into `out`, if it was given before and nothing changed since.
    pub fn again(&self, query: &[u8], out: &mut Vec<u8>) -> bool {
        QueryKey::of(query).is_some_and(|key| self.prepared.get(self.directory.generation(), &key, query, out))
    }

    /// Answers at once what the node knows itself.
    pub fn begin(&self, query: &[u8], transport: Transport) -> Step {
        let generation = self.directory.generation();
        let step = self.decide(query, transport);
        // Several addresses change places each time; answers of others have times that run.
        if let (Step::Reply(answer), Transport::Udp) = (&step, transport)
            && packet::is_authoritative(answer)
            && packet::answers(answer) <= 1
            && let Some(key) = QueryKey::of(query)
        {
            self.prepared.put(generation, &key, answer);
        }
        step
    }

    fn decide(&self, query: &[u8], transport: Transport) -> Step {
        if query.len() < packet::HEADER_LEN || packet::is_response(query) {
            return Step::Ignore;
        }
        let Ok(request) = Message::from_vec(query) else {
            return encoded(&Message::error_msg(packet::id(query).unwrap_or_default(), OpCode::Query, ResponseCode::FormErr), UDP_LEN_PLAIN);
        };
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_LEN_PLAIN, UDP_LEN_MAX),
            (Transport::Udp, None) => UDP_LEN_PLAIN,
        };
        let mut response = response_to(&request);
        if let Some(code) = objection(&request) {
            response.metadata.response_code = code;
            return encoded(&response, limit);
        }
        let question = request.queries[0].clone();
        self.resolve(query, limit, response, &question)
    }

    fn resolve(&self, query: &[u8], limit: u16, mut response: Message, question: &Query) -> Step {
        let mut name = question.name().clone();
        for _ in 0..ALIASES_MAX {
            if self.zone.contains(&name) && !(self.is_ready)() {
                response.metadata.authoritative = false;
                response.metadata.response_code = ResponseCode::ServFail;
                return encoded(&response, limit);
            }
            response.metadata.authoritative = true;
            match self.zone.resolve(&*self.directory, &name, question.query_type()) {
                Outcome::Found { mut answers, additionals } => {
                    self.shuffle(&mut answers);
                    response.add_answers(answers).add_additionals(additionals);
                    return encoded(&response, limit);
                }
                Outcome::NoData => return self.nothing(response, ResponseCode::NoError, limit),
                Outcome::NxDomain => return self.nothing(response, ResponseCode::NXDomain, limit),
                Outcome::Alias { record, target } => {
                    response.add_answer(record);
                    if question.query_type() == RecordType::CNAME {
                        return encoded(&response, limit);
                    }
                    name = target;
                }
                Outcome::NotOurs if response.answers.is_empty() => return self.forward(query, limit),
                Outcome::NotOurs => return Step::Wait(Pending::Target { limit, response: Box::new(response), target: name }),
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
        encoded(&response, limit)
    }

    fn nothing(&self, mut response: Message, code: ResponseCode, limit: u16) -> Step {
        response.metadata.response_code = code;
        response.add_authority(self.zone.soa());
        encoded(&response, limit)
    }

    fn forward(&self, query: &[u8], limit: u16) -> Step {
        match self.upstream.cached(query) {
            Some(answer) => Step::Reply(fitted(answer, limit)),
            None => Step::Wait(Pending::Forward { limit, query: query.to_vec() }),
        }
    }

    /// Gets the rest from the node's resolvers.
    pub async fn finish(&self, pending: Pending) -> Vec<u8> {
        match pending {
            Pending::Forward { limit, query } => match self.upstream.ask(&query, limit == u16::MAX).await {
                Some(answer) => fitted(answer, limit),
                None => failure(&query),
            },
            Pending::Target { limit, response, target } => self.finish_alias(limit, *response, target).await,
        }
    }

    async fn finish_alias(&self, limit: u16, mut response: Message, target: Name) -> Vec<u8> {
        let wanted = response.queries.first().map_or(RecordType::A, Query::query_type);
        let mut query = Message::new(self.env.below(1 << 16) as u16, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(target, wanted));
        let Ok(query) = query.to_vec() else { return encode(&response, limit) };
        let answer = match self.upstream.cached(&query) {
            Some(answer) => Some(answer),
            None => self.upstream.ask(&query, false).await,
        };
        match answer.and_then(|a| Message::from_vec(&a).ok()) {
            Some(answer) => {
                response.metadata.response_code = answer.metadata.response_code;
                response.add_answers(answer.answers);
            }
            // The alias alone is true as well.
            None => tracing::debug!("nobody knows the target of an alias"),
        }
        encode(&response, limit)
    }

    /// Clients take the first address: each gets another.
    fn shuffle(&self, answers: &mut [hickory_proto::rr::Record]) {
        if answers.len() > 1 && answers.iter().all(|r| matches!(r.record_type(), RecordType::A | RecordType::AAAA)) {
            answers.rotate_left(self.env.below(answers.len() as u64) as usize);
        }
    }
}

fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LEN_MAX).set_version(0);
        response.set_edns(edns);
    }
    response
}

/// Why a query is not to be answered, if so.
fn objection(request: &Message) -> Option<ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    let [question] = &request.queries[..] else { return Some(ResponseCode::FormErr) };
    if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    match (question.query_class(), question.query_type()) {
        (DNSClass::IN | DNSClass::ANY, RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
        (DNSClass::IN | DNSClass::ANY, _) => None,
        _ => Some(ResponseCode::Refused),
    }
}

fn encoded(response: &Message, limit: u16) -> Step {
    Step::Reply(encode(response, limit))
}

/// The message in at most `limit` bytes: first the additional records go, then as many answers as must; old clients (musl)
/// know no TCP and make do with those that are left.
fn encode(response: &Message, limit: u16) -> Vec<u8> {
    let limit = usize::from(limit);
    let bytes = emit(response);
    if bytes.len() <= limit {
        return bytes;
    }
    let mut shorter = response.clone();
    shorter.additionals.clear();
    let whole = emit(&shorter);
    if whole.len() <= limit {
        return whole;
    }
    let mut all = std::mem::take(&mut shorter.answers);
    let empty_len = emit(&shorter).len();
    shorter.answers = all.iter().take(1).cloned().collect();
    let record_len = (emit(&shorter).len() - empty_len).max(1);
    all.truncate(limit.saturating_sub(empty_len) / record_len);
    shorter.answers = all;
    shorter.metadata.truncation = true;
    // Records differ in length when their names do.
    let mut bytes = emit(&shorter);
    while bytes.len() > limit && shorter.answers.pop().is_some() {
        bytes = emit(&shorter);
    }
    bytes
}

/// A response that we made can be encoded; should it not, the client hears of a failure.
fn emit(response: &Message) -> Vec<u8> {
    response.to_vec().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot encode a DNS response");
        let failure = Message::error_msg(response.metadata.id, response.metadata.op_code, ResponseCode::ServFail);
        failure.to_vec().unwrap_or_default()
    })
}

fn fitted(mut answer: Vec<u8>, limit: u16) -> Vec<u8> {
    if answer.len() > usize::from(limit) {
        packet::truncate(&mut answer);
    }
    answer
}

fn failure(query: &[u8]) -> Vec<u8> {
    let Ok(request) = Message::from_vec(query) else { return Vec::new() };
    let mut response = response_to(&request);
    response.metadata.response_code = ResponseCode::ServFail;
    emit(&response)
}
